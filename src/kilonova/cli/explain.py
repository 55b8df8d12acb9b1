"""`kilonova explain`: why a packet would, or would not, arrive."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from kilonova.cli.client import Client, state_dir_option
from kilonova.cli.main import example
from kilonova.cli.output import json_option, plain_text, show_json

_SIGNS = {"ok": "ok     ", "dropped": "DROPPED", "unknown": "unknown"}


@click.command(
    short_help="Say why a packet would, or would not, arrive.", epilog=example("kilonova explain outside web 80/tcp")
)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.argument("traffic", metavar="[PORT/PROTO]", default="icmp")
@click.option("--project", metavar="NAME", help="Where to look names and addresses up. Default: all you may see.")
@click.option("--source-address", metavar="ADDRESS", help="As if SRC sent from this address, whether it may or not.")
@state_dir_option
@json_option
def explain(
    source: str,
    destination: str,
    traffic: str,
    project: str | None,
    source_address: str | None,
    state_dir: Path,
    as_json: bool,
) -> None:
    """Walk the way of a packet from SRC to DST, and of its answer, hop by hop.

    An end is a server (name or id), a port's id, an address (fixed or floating), or `outside`: the world beyond the
    public gateway. PORT/PROTO is such as 80/tcp or 53/udp; without it: icmp, a ping.

    At each hop, what the cloud's rows say is compared with what the host's kernel has. The last line names the first
    hop that drops the packet and what would change that. Exits 0 when it should arrive, else 1.
    """
    body = {
        "source": source,
        "destination": destination,
        "traffic": traffic,
        "project": project,
        "source_address": source_address,
    }
    client = Client.from_environment(state_dir)
    found = client.request("POST", "network", "/kilonova/explanations", {"explanation": body})["explanation"]
    if as_json:
        show_json(found)
    else:
        _show(found)
    if found["verdict"] != "arrives":
        sys.exit(1)


def _show(found: Mapping[str, Any]) -> None:
    direction = "forward"
    for number, hop in enumerate(found["hops"], 1):
        if hop["direction"] != direction:
            direction = hop["direction"]
            click.echo("the answer:")
        click.echo(plain_text(f"{number:2}  {_SIGNS[hop['verdict']]}  {hop['name']}: {hop['where']}"))
        click.echo(plain_text(f"             rows:   {hop['intent']}"))
        if hop["actual"]:
            click.echo(plain_text(f"             kernel: {hop['actual']}"))
        if hop["why"]:
            click.echo(plain_text(f"             why:    {hop['why']}"))
        if hop["command"] and hop["verdict"] != "ok":
            click.echo(plain_text(f"             try:    {hop['command']}"))
    click.echo(plain_text(found["conclusion"]))
    if found["command"]:
        click.echo(plain_text(f"what would change it: {found['command']}"))
