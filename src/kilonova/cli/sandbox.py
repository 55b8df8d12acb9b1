"""`kilonova sandbox exec`: run a program in the outside world of a sandbox, where floating addresses answer."""

from __future__ import annotations

import os
from pathlib import Path

import click

from kilonova.cli.client import state_dir_option
from kilonova.cli.main import PrefixGroup, example
from kilonova.errors import BadRequest, Unavailable
from kilonova.service.state import existing


@click.group(cls=PrefixGroup, epilog=example("sudo kilonova sandbox exec -- ping -c 3 203.0.113.1"))
def sandbox() -> None:
    """Run programs outside of a sandbox cloud."""


@sandbox.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=example("sudo kilonova sandbox exec -- curl http://203.0.113.12/"),
)
@state_dir_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(state_dir: Path, command: tuple[str, ...]) -> None:
    """Run COMMAND in the network namespace that stands for the internet; its exit status becomes this one's."""
    state = existing(state_dir.absolute())
    options = state.read_options()
    if options is None or options.mode != "sandbox":
        raise BadRequest(f"{state.path} is no sandbox: there is no outside namespace")
    if os.geteuid() != 0:
        raise BadRequest("entering a namespace needs root: use sudo")
    namespace = f"{options.prefix}-outside"
    if not Path("/run/netns", namespace).exists():
        raise Unavailable(f"the namespace {namespace} is not there: `kilonova up --state-dir {state.path}` makes it")
    os.execvp("ip", ["ip", "netns", "exec", namespace, *command])  # noqa: S606
