"""`kilonova vpn`: the projects' VPNs. Nothing is configured yet: `list` says so, `run` and `spawn` refuse."""

from __future__ import annotations

from pathlib import Path

import click

from kilonova.cli.client import Client, state_dir_option
from kilonova.cli.main import PrefixGroup, example
from kilonova.cli.output import json_option, show_json, show_table
from kilonova.errors import NotSupported

_NOT_YET = "project VPNs (WireGuard) come with a later release; only their ports are set aside: see `kilonova vpn list`"


@click.group(cls=PrefixGroup, epilog=example("kilonova vpn list"))
def vpn() -> None:
    """Look at the projects' VPN ports. No VPN runs yet."""


@vpn.command("list", epilog=example("kilonova vpn list --json"))
@state_dir_option
@json_option
def list_(state_dir: Path, as_json: bool) -> None:
    """List every project that has a network, with the VPN port set aside for it. Allocates nothing."""
    client = Client.from_environment(state_dir)
    names = {project["id"]: project["name"] for project in client.get("identity", "/projects")["projects"]}
    assigned = client.get("network", "/kilonova/pool-networks?assigned=true")["pool_networks"]
    records = [
        {
            "project_id": item["project_id"],
            "project": names.get(item["project_id"], "?"),
            "port": item["vpn_port"],
            "state": "not configured",
        }
        for item in assigned
    ]
    if as_json:
        show_json(records)
        return
    rows = [[record["project"], record["port"], record["state"]] for record in records]
    show_table(["PROJECT", "PORT", "STATE"], rows)
    click.echo("no VPN is configured" if not rows else "no VPN runs: project VPNs come with a later release")


@vpn.command(epilog=example("kilonova vpn run demo"))
@click.argument("project")
def run(project: str) -> None:
    """Start the VPN of PROJECT. Not there yet: exits 1 and says so."""
    raise NotSupported(f"vpn run {project}: {_NOT_YET}")


@vpn.command(epilog=example("kilonova vpn spawn"))
def spawn() -> None:
    """Start the VPN of every project that lacks one. Not there yet: exits 1 and says so."""
    raise NotSupported(f"vpn spawn: {_NOT_YET}")
