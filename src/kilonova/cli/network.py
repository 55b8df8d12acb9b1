"""`kilonova network`: the pool of networks that projects are given, one each, at their first server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kilonova.cli.client import Client, state_dir_option
from kilonova.cli.main import PrefixGroup, example
from kilonova.cli.output import json_option, show_json, show_record, show_table

_PATH = "/kilonova/pool-networks"
_NAMES = ("fixed_range", "num_networks", "network_size", "vlan_start", "vpn_start", "manager", "physical_network")


@click.group(cls=PrefixGroup, epilog=example("kilonova network list"))
def network() -> None:
    """Add, show and remove networks of the pool.

    A project is given one of them at its first server.
    """


@network.command(
    epilog=example(
        "kilonova network create --fixed-range 10.8.0.0/16 --num-networks 100 --vlan-start 500 --vpn-start 3000"
    )
)
@click.argument("assignments", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--fixed-range", default="10.0.0.0/8", show_default=True, help="The CIDR to cut networks from.")
@click.option("--num-networks", type=int, default=1000, show_default=True, help="How many networks to add.")
@click.option("--network-size", type=int, default=256, show_default=True, help="Addresses in each, a power of two.")
@click.option(
    "--vlan-start",
    type=int,
    default=100,
    show_default=True,
    help="VLAN id of the first network; the next one has the next.",
)
@click.option("--vpn-start", type=int, default=1000, show_default=True, help="VPN port set aside for the first.")
@click.option("--manager", default="vlan", show_default=True, help="What realises them; only vlan so far.")
@click.option(
    "--physical-network", default="physnet1", show_default=True, help="The trunk's name in `kilonova up --trunk`."
)
@state_dir_option
@json_option
def create(assignments: tuple[str, ...], state_dir: Path, as_json: bool, **options: Any) -> None:
    """Add networks to the pool; all of them or, on any error, none.

    \b
    The form of 2010 works too:
      kilonova network create fixed_range=10.8.0.0/16 num_networks=100 vlan_start=500 vpn_start=3000
    """
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator or name not in _NAMES:
            raise click.UsageError(f"'{assignment}' is not NAME=VALUE with one of the names {', '.join(_NAMES)}")
        if isinstance(options[name], int):
            if not value.isdigit():
                raise click.UsageError(f"{name}: '{value}' is not a number")
            options[name] = int(value)
        else:
            options[name] = value
    made = Client.from_environment(state_dir).request("POST", "network", _PATH, {"pool_networks": options})
    found = made["pool_networks"]
    if as_json:
        show_json(found)
    else:
        first, last = found[0], found[-1]
        click.echo(f"{len(found)} networks added: {first['cidr']} to {last['cidr']}")


@network.command("list", epilog=example("kilonova network list --assigned --json"))
@click.option("--assigned/--free", default=None, help="Only those a project has, or only those left.")
@state_dir_option
@json_option
def list_(assigned: bool | None, state_dir: Path, as_json: bool) -> None:
    """List the pool and which project has which network."""
    query = "" if assigned is None else f"?assigned={str(assigned).lower()}"
    found = Client.from_environment(state_dir).get("network", _PATH + query)["pool_networks"]
    if as_json:
        show_json(found)
        return
    columns = ["id", "cidr", "segmentation_id", "bridge", "vpn_port", "manager", "project_id"]
    headings = ["ID", "CIDR", "VLAN", "BRIDGE", "VPN PORT", "MANAGER", "PROJECT"]
    show_table(headings, [[item.get(c) for c in columns] for item in found], empty="no networks in the pool")


@network.command(epilog=example("kilonova network show 10.0.0.0/24"))
@click.argument("name")
@state_dir_option
@json_option
def show(name: str, state_dir: Path, as_json: bool) -> None:
    """Show a network of the pool. NAME is an id, CIDR or bridge."""
    client = Client.from_environment(state_dir)
    found = client.get("network", f"{_PATH}/{_id(client, name)}")["pool_network"]
    if as_json:
        show_json(found)
    else:
        show_record(found)


@network.command(epilog=example("kilonova network delete 10.0.0.0/24"))
@click.argument("name")
@state_dir_option
@json_option
def delete(name: str, state_dir: Path, as_json: bool) -> None:
    """Take a network out of the pool. Refused while a project has it. NAME is an id, CIDR or bridge."""
    client = Client.from_environment(state_dir)
    pool_id = _id(client, name)
    client.request("DELETE", "network", f"{_PATH}/{pool_id}")
    if as_json:
        show_json({"deleted": pool_id})
    else:
        click.echo(f"{name} deleted")


def _id(client: Client, name: str) -> str:
    """The id of what is named by CIDR or bridge; else the name itself."""
    for item in client.get("network", _PATH)["pool_networks"]:
        if name in {item["cidr"], item["bridge"]}:
            return str(item["id"])
    return name
