"""Signed tokens: round trip, forgery, and shapes of other versions."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova.auth import tokens
from kilonova.auth.tokens import Named, Token, new_token_id, sign, verify
from kilonova.errors import Unauthorized

KEYS = {"k1": b"1" * 32, "k2": b"2" * 32}
DEFAULT = Named("default", "Default")


def _token(**changes: object) -> Token:
    said: dict[str, object] = {
        "id": new_token_id(),
        "user": Named("u1", "zoë"),
        "user_domain": DEFAULT,
        "methods": ("password",),
        "issued_us": 1_000_000,
        "expires_us": 2_000_000,
        "project": Named("p1", "web"),
        "project_domain": DEFAULT,
        "roles": (Named("r1", "member"),),
    }
    return Token(**(said | changes))  # type: ignore[arg-type]


def test_what_was_signed_is_read_back() -> None:
    token = _token()
    assert verify(sign(token, "k1", KEYS["k1"]), KEYS) == token


def test_each_key_verifies_its_own_tokens_only() -> None:
    assert verify(sign(_token(), "k2", KEYS["k2"]), KEYS).user.id == "u1"
    with pytest.raises(Unauthorized):
        verify(sign(_token(), "k1", KEYS["k2"]), KEYS)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(Unauthorized):
        verify(sign(_token(), "k3", KEYS["k1"]), KEYS)


@given(position=st.integers(min_value=0), letter=st.sampled_from("AZaz09-_."))
def test_no_changed_letter_gets_through(position: int, letter: str) -> None:
    text = sign(_token(), "k1", KEYS["k1"])
    position %= len(text)
    forged = text[:position] + letter + text[position + 1 :]
    if forged != text:
        with pytest.raises(Unauthorized):
            verify(forged, KEYS)


@given(st.text())
def test_any_text_that_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(Unauthorized):
        verify(text, KEYS)


def test_a_payload_of_another_shape_is_refused_although_it_is_signed() -> None:
    signed = f"kn1.k1.{tokens._text(msgspec.msgpack.encode(['something else']))}"
    with pytest.raises(Unauthorized):
        verify(f"{signed}.{tokens._text(tokens._mac(KEYS['k1'], signed))}", KEYS)


def test_times_are_utc() -> None:
    token = _token()
    assert token.issued_at.isoformat() == "1970-01-01T00:00:01+00:00"
    assert token.expires_at.isoformat() == "1970-01-01T00:00:02+00:00"
