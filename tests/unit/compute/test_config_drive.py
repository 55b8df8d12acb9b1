"""The config drive, read back."""

from __future__ import annotations

import io
from pathlib import Path

import pycdlib

from kilonova.compute.config_drive import write_config_drive, write_config_files

FILES = {
    "openstack/latest/meta_data.json": b"{}",
    "openstack/latest/user_data": b"#!/bin/sh\n" + b"x" * 5000,
    "openstack/2012-08-10/meta_data.json": b"{1}",
    "ec2/latest/meta-data.json": b"{2}",
}


def test_every_file_is_found_under_its_name_in_joliet_and_rock_ridge(tmp_path: Path) -> None:
    path = tmp_path / "config-drive.iso"
    write_config_drive(path, FILES)
    iso = pycdlib.PyCdlib()
    iso.open(str(path))
    for name, content in FILES.items():
        for kind in ("joliet_path", "rr_path"):
            output = io.BytesIO()
            iso.get_file_from_iso_fp(output, **{kind: f"/{name}"})
            assert output.getvalue() == content, (kind, name)
    assert iso.pvd.volume_identifier.strip() == b"config-2"
    iso.close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_directory_has_every_file_and_nothing_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "config-drive"
    write_config_files(path, FILES)
    write_config_files(path, {"openstack/latest/meta_data.json": b"{2}"})
    found = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert found == {"openstack/latest/meta_data.json": b"{2}"}
    assert path.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == [path]
