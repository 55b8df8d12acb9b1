"""Writes a config drive: the metadata documents as a small ISO 9660 disk labelled `config-2`, or as a directory.

Joliet and Rock Ridge carry the real names; the plain ISO names are numbers that nobody reads. What the files say is
`kilonova.metadata`'s.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pycdlib

LABEL = "config-2"


def write_config_drive(path: Path, files: Mapping[str, bytes]) -> None:
    """Make the disk with `files` (path in it -> bytes). It appears whole or not at all. Blocks for milliseconds."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    plain_names: dict[PurePosixPath, str] = {PurePosixPath("/"): ""}
    for number, directory in enumerate(_directories(files)):
        plain = plain_names[directory] = f"{plain_names[directory.parent]}/D{number}"
        iso.add_directory(plain, rr_name=directory.name, joliet_path=str(directory))
    for number, (name, content) in enumerate(sorted(files.items())):
        file = PurePosixPath("/") / name
        plain = f"{plain_names[file.parent]}/F{number}.;1"
        iso.add_fp(io.BytesIO(content), len(content), plain, rr_name=file.name, joliet_path=str(file))
    temporary = path.with_suffix(".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        iso.write_fp(output)
    iso.close()
    temporary.rename(path)


def write_config_files(path: Path, files: Mapping[str, bytes]) -> None:
    """Make the directory with `files`, instead of the one that is there. It appears whole or not at all."""
    temporary = path.with_suffix(".new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(mode=0o700)
    for name, content in files.items():
        file = temporary / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)


def _directories(files: Mapping[str, bytes]) -> list[PurePosixPath]:
    """Every directory of the files, parents first."""
    root = PurePosixPath("/")
    found = {parent for name in files for parent in (root / name).parents}
    return sorted(found - {root})
