"""What `kilonova doctor` says of a machine on which something is missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kilonova.errors import BadRequest
from kilonova.service import checks
from kilonova.service.sockets import bind


def test_what_is_not_installed_is_named_and_not_blamed_on_the_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checks, "_path", lambda: str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    (packages,), (kernel,) = list(checks.packages()), list(checks.kernel())

    assert packages.level == "problem"
    assert "nftables" in packages.advice
    assert kernel.level == "note"
    assert "nft" in kernel.found


def test_a_name_that_is_no_address_is_said_to_be_none() -> None:
    with pytest.raises(BadRequest, match="not an address"):
        bind("999.1.1.1", 1)
