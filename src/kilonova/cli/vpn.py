"""`kilonova vpn`: the projects' VPNs, one WireGuard server in each project's router, and the files of their clients."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from kilonova.cli.client import Client, state_dir_option
from kilonova.cli.main import PrefixGroup, example
from kilonova.cli.output import json_option, show_json, show_record, show_table
from kilonova.cli.project import project_named
from kilonova.errors import KilonovaError

_PATH = "/kilonova/vpns"


@click.group(cls=PrefixGroup, epilog=example("kilonova vpn list"))
def vpn() -> None:
    """Start and end the projects' VPNs, and say who may use them. PROJECT is a name or an id."""


@vpn.command("list", epilog=example("kilonova vpn list --json"))
@state_dir_option
@json_option
def list_(state_dir: Path, as_json: bool) -> None:
    """List every project that has a network, with its VPN or the port set aside for it. Allocates nothing."""
    found = Client.from_environment(state_dir).get("network", _PATH)["vpns"]
    if as_json:
        show_json(found)
        return
    rows = [
        [item["project_name"], _endpoint(item), _state(item), item["clients"], item["last_handshake_at"]]
        for item in found
    ]
    headings = ["PROJECT", "ADDRESS:PORT", "STATE", "CLIENTS", "LAST HANDSHAKE"]
    show_table(headings, rows, empty="no project has a network")


@vpn.command(epilog=example("kilonova vpn show demo"))
@click.argument("project")
@state_dir_option
@json_option
def show(project: str, state_dir: Path, as_json: bool) -> None:
    """Show the VPN of PROJECT and its clients."""
    client = Client.from_environment(state_dir)
    found = client.get("network", _path(client, project))["vpn"]
    if as_json:
        show_json(found)
        return
    show_record({name: value for name, value in found.items() if name != "clients"})
    click.echo()
    rows = [[item["user_name"], item["address"], item["last_handshake_at"]] for item in found["clients"]]
    show_table(["USER", "ADDRESS", "LAST HANDSHAKE"], rows, empty="no clients: see `kilonova vpn config`")


@vpn.command(epilog=example("kilonova vpn run demo"))
@click.argument("project")
@state_dir_option
@json_option
def run(project: str, state_dir: Path, as_json: bool) -> None:
    """Start the VPN of PROJECT. One that runs stays as it is."""
    client = Client.from_environment(state_dir)
    project_id = _project_id(client, project)
    made = client.request("POST", "network", _PATH, {"vpn": {"project_id": project_id}})["vpn"]
    if as_json:
        show_json(made)
    else:
        click.echo(f"{project}: VPN at {_endpoint(made)}; `kilonova vpn config {project} --user NAME` makes a client")


@vpn.command(epilog=example("kilonova vpn spawn"))
@state_dir_option
@json_option
def spawn(state_dir: Path, as_json: bool) -> None:
    """Start the VPN of every project that has a network and lacks one; exits 1 if one could not be started."""
    made = Client.from_environment(state_dir).request("POST", "network", f"{_PATH}/spawn")
    if as_json:
        show_json(made)
    else:
        for item in made["started"]:
            click.echo(f"{item['project_name']}: VPN at {_endpoint(item)}")
        for item in made["failed"]:
            click.echo(f"{item['project_name']}: not started: {item['reason']}")
        if not made["started"] and not made["failed"]:
            click.echo("every project that has a network has a VPN")
    if made["failed"]:
        raise SystemExit(1)


@vpn.command(epilog=example("kilonova vpn config demo --user ann --output demo.conf"))
@click.argument("project")
@click.option("--user", required=True, help="Whom the client is for; the name under which it is revoked.")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the file here, readable by you alone."
)
@state_dir_option
@json_option
def config(project: str, user: str, output: Path | None, state_dir: Path, as_json: bool) -> None:
    """Make a client of the VPN of PROJECT and print its file for wg-quick.

    The file is shown this once. Asked for again, the client gets new keys and its old file is void.
    """
    client = Client.from_environment(state_dir)
    body = {"client": {"user_name": user}}
    made = client.request("POST", "network", f"{_path(client, project)}/clients", body)["client"]
    if output is not None:
        _write(output, made["config"])
    if as_json:
        show_json(made if output is None else {name: value for name, value in made.items() if name != "config"})
    elif output is None:
        click.echo(made["config"], nl=False)
    else:
        click.echo(f"{output} written: `wg-quick up {output}` connects {user} as {made['address']}")


@vpn.command(epilog=example("kilonova vpn revoke demo --user ann"))
@click.argument("project")
@click.option("--user", help="Only this client; else all of them.")
@state_dir_option
@json_option
def revoke(project: str, user: str | None, state_dir: Path, as_json: bool) -> None:
    """Take clients of the VPN of PROJECT their access, at once."""
    client = Client.from_environment(state_dir)
    path = f"{_path(client, project)}/clients" + (f"/{user}" if user else "")
    gone = client.request("DELETE", "network", path)["revoked"]
    if as_json:
        show_json({"revoked": gone})
    else:
        click.echo(f"{project}: revoked {', '.join(gone)}" if gone else f"{project}: the VPN has no clients")


@vpn.command(epilog=example("kilonova vpn stop demo"))
@click.argument("project")
@state_dir_option
@json_option
def stop(project: str, state_dir: Path, as_json: bool) -> None:
    """End the VPN of PROJECT and revoke its clients."""
    client = Client.from_environment(state_dir)
    client.request("DELETE", "network", _path(client, project))
    if as_json:
        show_json({"stopped": project})
    else:
        click.echo(f"{project}: VPN stopped")


def _path(client: Client, project: str) -> str:
    return f"{_PATH}/{_project_id(client, project)}"


def _project_id(client: Client, name: str) -> str:
    """Who is no administrator sees the own project's VPN only, and no list of projects."""
    seen = {item["project_id"]: item["project_name"] for item in client.get("network", _PATH)["vpns"]}
    found = [project_id for project_id, project_name in seen.items() if name in (project_id, project_name)]
    return found[0] if len(found) == 1 else str(project_named(client, name)["id"])


def _endpoint(item: dict[str, Any]) -> str:
    return f"{item['address'] or '?'}:{item['port'] or '?'}"


def _state(item: dict[str, Any]) -> str:
    return "not configured" if item["status"] == "NONE" else str(item["status"]).lower()


def _write(path: Path, text: str) -> None:
    """A key is in it: nobody else reads it, not even for a moment."""
    try:
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise KilonovaError(f"{path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
