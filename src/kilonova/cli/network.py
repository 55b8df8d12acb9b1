"""`kilonova network`: the pool of networks that projects are given, and who has which."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from kilonova.cli.client import Client, state_dir_option
from kilonova.cli.main import PrefixGroup, example
from kilonova.cli.output import json_option, show_json, show_record, show_table
from kilonova.cli.project import find_projects, project_named, show_decision
from kilonova.errors import Conflict, NotFound

MANAGERS = ("flat", "flat-dhcp", "vlan", "vxlan")
_PATH = "/kilonova/pool-networks"
_NUMBERS = ("num_networks", "network_size", "vlan_start", "vpn_start")
_NAMES = ("fixed_range", *_NUMBERS, "manager", "physical_network", "gateway")


@click.group(cls=PrefixGroup, epilog=example("kilonova network list"))
def network() -> None:
    """Add, show and remove networks of the pool; give them to projects.

    A project is given one at its first server, or by `kilonova network assign`.
    """


@network.command(
    epilog=example(
        "kilonova network create --fixed-range 10.8.0.0/16 --num-networks 100 --vlan-start 500 --vpn-start 3000"
    )
)
@click.argument("assignments", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--fixed-range", help="The CIDR to cut networks from [10.0.0.0/8]; of flat ones your bridge's subnet.")
@click.option("--num-networks", type=int, help="How many networks to add [1000].")
@click.option("--network-size", type=int, help="Addresses in each, a power of two [256].")
@click.option("--vlan-start", type=int, help="VLAN id (vxlan: VNI) of the first network; the next has the next [100].")
@click.option("--vpn-start", type=int, help="VPN port set aside for the first network [1000].")
@click.option("--manager", default="vlan", show_default=True, help=f"How they are kept apart: {', '.join(MANAGERS)}.")
@click.option("--physical-network", default="", help="Name of the trunk (vlan) [physnet1], or of the flat bridge.")
@click.option("--gateway", help="Of a flat network: your way out of it [its first address].")
@click.option("--exclude", multiple=True, help="Of a flat network: an address or CIDR not to give; may be repeated.")
@state_dir_option
@json_option
def create(assignments: tuple[str, ...], state_dir: Path, as_json: bool, **options: Any) -> None:
    """Add networks to the pool; all of them or, on any error, none.

    A flat network is one per physical network, on a bridge of yours that `kilonova up --flat` named; projects share it.

    \b
    The form of 2010 works too:
      kilonova network create fixed_range=10.8.0.0/16 num_networks=100 vlan_start=500 vpn_start=3000
    """
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator or name not in _NAMES:
            raise click.UsageError(f"'{assignment}' is not NAME=VALUE with one of the names {', '.join(_NAMES)}")
        if name in _NUMBERS:
            if not value.isdigit():
                raise click.UsageError(f"{name}: '{value}' is not a number")
            options[name] = int(value)
        else:
            options[name] = value
    made = Client.from_environment(state_dir).request("POST", "network", _PATH, {"pool_networks": options})
    found = made["pool_networks"]
    if as_json:
        show_json(found)
    elif len(found) == 1:
        click.echo(f"1 network added: {found[0]['cidr']}")
    else:
        click.echo(f"{len(found)} networks added: {found[0]['cidr']} to {found[-1]['cidr']}")


@network.command("list", epilog=example("kilonova network list --free --manager vxlan --limit 10 --json"))
@click.option("--assigned/--free", default=None, help="Only those a project has, or only the others.")
@click.option("--manager", type=click.Choice(MANAGERS), help="Only those of this manager.")
@click.option("--physical-network", help="Only those on this one.")
@click.option("--project", help="Only that of this project (name or id).")
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@click.option("--marker", help="Those after this one (id, CIDR or bridge).")
@state_dir_option
@json_option
def list_(
    assigned: bool | None,
    manager: str | None,
    physical_network: str | None,
    project: str | None,
    limit: int | None,
    marker: str | None,
    state_dir: Path,
    as_json: bool,
) -> None:
    """List the pool, in the order in which it is handed out, and which project has which network."""
    client = Client.from_environment(state_dir)
    asked = {
        "assigned": None if assigned is None else str(assigned).lower(),
        "manager": manager,
        "physical_network": physical_network,
        "project_id": None if project is None else project_named(client, project)["id"],
        "limit": limit,
        "marker": None if marker is None else _named(client, marker)["id"],
    }
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    found = client.get("network", f"{_PATH}?{query}")["pool_networks"]
    if as_json:
        show_json(found)
        return
    columns = ["id", "cidr", "manager", "segmentation_id", "bridge", "vpn_port", "state", "project_id"]
    headings = ["ID", "CIDR", "MANAGER", "SEGMENT", "BRIDGE", "VPN PORT", "STATE", "PROJECT"]
    show_table(headings, [[item.get(c) for c in columns] for item in found], empty="no networks in the pool")


@network.command(epilog=example("kilonova network show 10.0.0.0/24"))
@click.argument("name")
@state_dir_option
@json_option
def show(name: str, state_dir: Path, as_json: bool) -> None:
    """Show a network of the pool, who has it and why it was chosen. NAME is an id, CIDR or bridge."""
    found = _named(Client.from_environment(state_dir), name)
    if as_json:
        show_json(found)
        return
    show_record({field: value for field, value in found.items() if field != "projects"})
    for given in found["projects"]:
        click.echo(f"\nproject {given['project_id']}, since {given['created_at']}")
        show_decision(given["decision"])


@network.command(epilog=example("kilonova network delete 10.0.0.0/24"))
@click.argument("name")
@state_dir_option
@json_option
def delete(name: str, state_dir: Path, as_json: bool) -> None:
    """Take a network out of the pool. Refused while a project has it. NAME is an id, CIDR or bridge."""
    client = Client.from_environment(state_dir)
    pool_id = _named(client, name)["id"]
    client.request("DELETE", "network", f"{_PATH}/{pool_id}")
    if as_json:
        show_json({"deleted": pool_id})
    else:
        click.echo(f"{name} deleted")


@network.command(epilog=example("kilonova network assign demo 10.0.7.0/24"))
@click.argument("project")
@click.argument("name", required=False, metavar="[NETWORK]")
@click.option("--manager", type=click.Choice(MANAGERS), help="The type of network; else it is chosen.")
@state_dir_option
@json_option
def assign(project: str, name: str | None, manager: str | None, state_dir: Path, as_json: bool) -> None:
    """Give PROJECT its network before its first server does: NETWORK of the pool, or a free one."""
    client = Client.from_environment(state_dir)
    path = f"/kilonova/projects/{project_named(client, project)['id']}/network"
    body = {"network": {"pool_network": name, "manager": manager}}
    made = client.request("POST", "network", path, body)["project"]
    if as_json:
        show_json(made)
    else:
        given = made["network"]
        click.echo(f"{made['name']} has {given['cidr']} ({given['manager']}, {given['bridge']})")


@network.command(epilog=example("kilonova network release demo"))
@click.argument("name", metavar="PROJECT|NETWORK")
@state_dir_option
@json_option
def release(name: str, state_dir: Path, as_json: bool) -> None:
    """Take its network away from a project, with its default router. Refused while servers, ports, routers use it."""
    client = Client.from_environment(state_dir)
    project_id = _holder(client, name)
    client.request("DELETE", "network", f"/kilonova/projects/{project_id}/network")
    if as_json:
        show_json({"released": project_id})
    else:
        click.echo(f"{name} released")


def _holder(client: Client, name: str) -> str:
    """The project of this name or id, else the one that has the pool network of this name."""
    projects = find_projects(client, name)
    if len(projects) == 1:
        return str(projects[0]["id"])
    holders = [given["project_id"] for given in _named(client, name, "project or network")["projects"]]
    if not holders:
        raise NotFound(f"no project has the network {name}")
    if len(holders) > 1:
        raise Conflict(f"the network {name} is shared by {len(holders)} projects: name the one to release it from")
    return str(holders[0])


def _named(client: Client, name: str, what: str = "network") -> Any:
    """A pool network, whole, by id, network's id, CIDR or bridge. Raises `NotFound`."""
    found = client.get("network", f"{_PATH}?{urlencode({'name': name})}")["pool_networks"]
    if not found:
        raise NotFound(f"there is no {what} {name}: see `kilonova network list`")
    return client.get("network", f"{_PATH}/{found[0]['id']}")["pool_network"]
