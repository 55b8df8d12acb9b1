"""`kilonova project`: the projects, of which type their networks shall be, and which they have and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from kilonova.cli.client import Client, state_dir_option
from kilonova.cli.main import PrefixGroup, example
from kilonova.cli.output import json_option, show_json, show_record, show_table
from kilonova.errors import Conflict, NotFound

_PATH = "/kilonova/projects"
_TYPES = click.Choice(["auto", "flat", "flat-dhcp", "vlan", "vxlan"])


@click.group(cls=PrefixGroup, epilog=example("kilonova project list"))
def project() -> None:
    """List projects, and choose the type of their networks. `openstack project` does the rest."""


@project.command("list", epilog=example("kilonova project list --network-type vxlan --json"))
@click.option("--network-type", type=_TYPES, help="Only those that prefer this type (auto: none).")
@state_dir_option
@json_option
def list_(network_type: str | None, state_dir: Path, as_json: bool) -> None:
    """List the projects of the cloud with their networks."""
    found = Client.from_environment(state_dir).get("network", _PATH)["projects"]
    if network_type is not None:
        found = [item for item in found if (item["network_type"] or "auto") == network_type]
    if as_json:
        show_json(found)
        return
    rows = [[item["id"], item["name"], item["enabled"], _preferred(item), *_network(item)] for item in found]
    show_table(["ID", "NAME", "ENABLED", "NETWORK TYPE", "NETWORK", "CIDR", "HOST"], rows, empty="no projects")


@project.command(epilog=example("kilonova project show demo"))
@click.argument("name", metavar="PROJECT")
@state_dir_option
@json_option
def show(name: str, state_dir: Path, as_json: bool) -> None:
    """Show a project, its network, and why it was given one of that type."""
    found = project_named(Client.from_environment(state_dir), name)
    if as_json:
        show_json(found)
        return
    network = found["network"]
    show_record({field: value for field, value in found.items() if field != "network"})
    if network is None:
        click.echo("no network yet: one is chosen at the first server")
        return
    click.echo()
    show_record({f"network {field}": value for field, value in network.items() if field != "decision"})
    click.echo()
    show_decision(network["decision"])


@project.command("set", epilog=example("kilonova project set demo --network-type vxlan"))
@click.argument("name", metavar="PROJECT")
@click.option("--network-type", type=_TYPES, required=True, help="Of its next network; auto: it is chosen.")
@state_dir_option
@json_option
def set_(name: str, network_type: str, state_dir: Path, as_json: bool) -> None:
    """Say of which type a project's network shall be. A network that it has already stays as it is."""
    client = Client.from_environment(state_dir)
    body = {"project": {"network_type": None if network_type == "auto" else network_type}}
    path = f"{_PATH}/{project_named(client, name)['id']}"
    changed = client.request("PATCH", "network", path, body)["project"]
    if as_json:
        show_json(changed)
        return
    click.echo(f"{changed['name']}: network type {_preferred(changed)}")
    network = changed["network"]
    if network is not None and network_type not in ("auto", network["manager"]):
        click.echo(f"it keeps its {network['manager']} network until `kilonova network release {name}`")


def find_projects(client: Client, name: str) -> list[dict[str, Any]]:
    """The projects with this id or, else, this name."""
    for field in ("id", "name"):
        found: list[dict[str, Any]] = client.get("network", f"{_PATH}?{urlencode({field: name})}")["projects"]
        if found:
            return found
    return []


def project_named(client: Client, name: str) -> dict[str, Any]:
    """The project with this id or name. Raises `NotFound`, and `Conflict` when several have the name."""
    found = find_projects(client, name)
    if not found:
        raise NotFound(f"there is no project {name}: see `kilonova project list`")
    if len(found) > 1:
        raise Conflict(f"{len(found)} projects are named {name}: use an id ({', '.join(item['id'] for item in found)})")
    return found[0]


def show_decision(decision: list[dict[str, Any]]) -> None:
    """Why a network is of its type: the verdict on every one, the chosen first."""
    rows = [
        ["->" if i == 0 else "", item["manager"], item["possible"], f"{item['weight']:g}", item["reason"]]
        for i, item in enumerate(decision)
    ]
    show_table(["", "TYPE", "POSSIBLE", "WEIGHT", "REASON"], rows, empty="(it was given before reasons were kept)")


def _preferred(item: dict[str, Any]) -> str:
    return item["network_type"] or "auto"


def _network(item: dict[str, Any]) -> list[object]:
    network = item["network"]
    return [None, None, None] if network is None else [network["manager"], network["cidr"], network["host"]]
