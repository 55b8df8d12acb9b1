"""The error hierarchy: a status each, and the way over the bus and back."""

from __future__ import annotations

import importlib
import pkgutil
from http import HTTPStatus

import pytest

import kilonova
from kilonova.errors import InternalError, KilonovaError


def _all_kinds() -> list[str]:
    """Also of the modules that no other test has imported by now."""
    for module in pkgutil.walk_packages(kilonova.__path__, "kilonova."):
        if ".migrations." not in module.name:
            importlib.import_module(module.name)
    return sorted(KilonovaError.kinds)


@pytest.mark.parametrize("kind", _all_kinds())
def test_every_error_can_be_sent_and_has_a_known_status(kind: str) -> None:
    error = KilonovaError.from_kind(kind, "port p1: no")
    assert error.kind == kind
    assert error.message == str(error) == "port p1: no"
    assert HTTPStatus(error.status).phrase
    assert error.status >= 400


@pytest.mark.parametrize("kind", ["KilonovaError", "SystemExit", "", "Unheard-Of"])
def test_an_unknown_kind_is_an_internal_error(kind: str) -> None:
    error = KilonovaError.from_kind(kind, "words")
    assert type(error) is InternalError
    assert error.message == "words"
