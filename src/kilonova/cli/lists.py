"""`kilonova user|role|image|host list`: what there is, through the public APIs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from kilonova.cli.client import Client, state_dir_option
from kilonova.cli.main import PrefixGroup, example
from kilonova.cli.output import json_option, show_json, show_table


def _list_command(noun: str, service: str, path: str, key: str, columns: Sequence[tuple[str, str]]) -> click.Group:
    """A group `noun` with the command `list`; `columns` pairs a heading with a field's name."""

    @click.group(noun, cls=PrefixGroup, help=f"List {noun}s.", epilog=example(f"kilonova {noun} list"))
    def group() -> None: ...

    @group.command("list", help=f"List the {noun}s of the cloud.", epilog=example(f"kilonova {noun} list --json"))
    @state_dir_option
    @json_option
    def list_(state_dir: Path, as_json: bool) -> None:
        found: list[dict[str, Any]] = Client.from_environment(state_dir).get(service, path)[key]
        if as_json:
            show_json(found)
            return
        rows = [[item.get(field) for _, field in columns] for item in found]
        show_table([heading for heading, _ in columns], rows, empty=f"no {noun}s")

    return group


user = _list_command(
    "user", "identity", "/users", "users", [("ID", "id"), ("NAME", "name"), ("ENABLED", "enabled"), ("EMAIL", "email")]
)
role = _list_command("role", "identity", "/roles", "roles", [("ID", "id"), ("NAME", "name")])
image = _list_command(
    "image",
    "image",
    "/v2/images",
    "images",
    [
        ("ID", "id"),
        ("NAME", "name"),
        ("STATUS", "status"),
        ("VISIBILITY", "visibility"),
        ("FORMAT", "disk_format"),
        ("BYTES", "size"),
    ],
)
host = _list_command(
    "host",
    "compute",
    "/os-hypervisors/detail",
    "hypervisors",
    [
        ("HOST", "hypervisor_hostname"),
        ("STATE", "state"),
        ("STATUS", "status"),
        ("DRIVER", "hypervisor_type"),
        ("VCPUS", "vcpus"),
        ("USED", "vcpus_used"),
        ("RAM MB", "memory_mb"),
        ("USED MB", "memory_mb_used"),
        ("SERVERS", "running_vms"),
    ],
)
