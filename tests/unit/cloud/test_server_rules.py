"""The pure rules of servers: names, statuses, safe expressions."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova.cloud.server_lists import like_pattern
from kilonova.cloud.server_names import hostname_of, numbered
from kilonova.cloud.server_status import KNOWN, states_of, status_of


@given(st.text(max_size=300))
def test_every_name_makes_a_host_name(name: str) -> None:
    hostname = hostname_of(name, "0" * 36)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", hostname)


@pytest.mark.parametrize(
    ("name", "hostname"),
    [
        ("Web Server_1", "web-server-1"),
        ("überraschung", "berraschung"),
        ("...", "server-x"),
        ("10.0.0.1", "10-0-0-1"),
        ("a.b", "a.b"),
        ("x" * 80, "x" * 63),
    ],
)
def test_host_names_are_what_nova_makes(name: str, hostname: str) -> None:
    assert hostname_of(name, "x") == hostname


def test_only_several_servers_are_numbered() -> None:
    assert numbered("web", 0, 1) == "web"
    assert [numbered("web", index, 2) for index in range(2)] == ["web-1", "web-2"]


vm_states = st.sampled_from(["active", "building", "stopped", "paused", "suspended", "error", "deleted"])
tasks = st.sampled_from([None, "rebooting", "rebooting_hard", "powering-off", "deleting", "spawning"])


@given(vm_states, tasks)
def test_a_status_stands_for_the_states_that_show_it(vm_state: str, task: str | None) -> None:
    for status in KNOWN:
        plain, excluded, pairs = states_of(status)
        stands = (vm_state in plain and (vm_state, task) not in excluded) or (vm_state, task) in pairs
        assert stands == (status_of(vm_state, task) == status)


def test_an_unknown_state_has_a_status_too() -> None:
    assert status_of("dreaming", None) == "UNKNOWN"


@pytest.mark.parametrize(
    ("expression", "pattern"),
    [
        ("web", "%web%"),
        ("^web$", "web"),
        ("^web.*", "web%%"),
        ("a.c", "%a_c%"),
        ("a.+c", "%a_%c%"),
        (r"a\.c", "%a.c%"),
        ("50%", r"%50\%%"),
        ("a_b", r"%a\_b%"),
        ("^", "%"),
        ("(a+)+$", "%(a+)+"),
    ],
)
def test_expressions_become_patterns_that_cannot_run_away(expression: str, pattern: str) -> None:
    assert like_pattern(expression) == pattern
