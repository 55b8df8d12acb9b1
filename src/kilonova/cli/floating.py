"""`kilonova floating`: the ranges that floating addresses are taken from."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import click

from kilonova.cli.client import Client, state_dir_option
from kilonova.cli.main import PrefixGroup, example
from kilonova.cli.output import json_option, show_json, show_table

_PATH = "/kilonova/floating-ranges"


@click.group(cls=PrefixGroup, epilog=example("kilonova floating list"))
def floating() -> None:
    """Add, list and remove ranges of floating addresses."""


@floating.command(epilog=example("kilonova floating create host1 198.51.100.0/24"))
@click.argument("host")
@click.argument("cidr", metavar="RANGE")
@click.option("--gateway", help="The way out, which is not given to anybody [as configured, else the first address].")
@click.option("--exclude", multiple=True, help="An address or CIDR of RANGE not to give; may be repeated.")
@state_dir_option
@json_option
def create(host: str, cidr: str, gateway: str | None, exclude: tuple[str, ...], state_dir: Path, as_json: bool) -> None:
    """Give the network host HOST a RANGE (CIDR) of floating addresses. The first one makes the network `public`."""
    body = {"floating_range": {"host": host, "cidr": cidr, "gateway": gateway, "exclude": exclude}}
    made = Client.from_environment(state_dir).request("POST", "network", _PATH, body)["floating_range"]
    if as_json:
        show_json(made)
    else:
        click.echo(f"{made['cidr']} on {made['host']}: {made['size']} addresses")


@floating.command(epilog=example("kilonova floating delete 198.51.100.0/24"))
@click.argument("cidr", metavar="RANGE")
@state_dir_option
@json_option
def delete(cidr: str, state_dir: Path, as_json: bool) -> None:
    """Take a RANGE away, whole. Refused while one of its addresses is in use."""
    if "/" not in cidr:
        raise click.BadParameter(f"'{cidr}' is no range such as 198.51.100.0/24: see `kilonova floating list`")
    Client.from_environment(state_dir).request("DELETE", "network", f"{_PATH}/{quote(cidr, safe='')}")
    if as_json:
        show_json({"deleted": cidr})
    else:
        click.echo(f"{cidr} deleted")


@floating.command("list", epilog=example("kilonova floating list --json"))
@state_dir_option
@json_option
def list_(state_dir: Path, as_json: bool) -> None:
    """List the ranges and how much of each is used."""
    found = Client.from_environment(state_dir).get("network", _PATH)["floating_ranges"]
    if as_json:
        show_json(found)
        return
    rows = [[item["host"], item["cidr"], item["size"], item["used"]] for item in found]
    show_table(["HOST", "RANGE", "ADDRESSES", "USED"], rows, empty="no floating ranges: `kilonova floating create`")
