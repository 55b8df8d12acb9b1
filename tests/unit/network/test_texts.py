"""Addresses and names that are safe to write into another program's configuration."""

from __future__ import annotations

import pytest

from kilonova.network.texts import is_domain_name, plain_address, plain_network


@pytest.mark.parametrize("text", ["fe80::1%eth0", "fe80::1%\nuser=root", "::1%", "words", ""])
def test_an_address_with_a_zone_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        plain_address(text)


@pytest.mark.parametrize("text", ["fe80::% accept; flush ruleset\n/64", "::%x", "10.0.0.0/33"])
def test_a_network_with_a_zone_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        plain_network(text)


def test_plain_ones_are_as_they_are() -> None:
    assert str(plain_address("2001:db8::1")) == "2001:db8::1"
    assert str(plain_network("10.0.0.9/8")) == "10.0.0.0/8"


@pytest.mark.parametrize("text", ["a", "example.org", "example.org.", "x-1.y", "a" * 63, "1.example"])
def test_names_of_hosts_and_domains(text: str) -> None:
    assert is_domain_name(text)


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", "-a", "a-", "a b", "a\n", "a\nuser=root", "a/b", "a,b", "é", "a" * 64]
)
def test_what_is_no_name(text: str) -> None:
    assert not is_domain_name(text)
