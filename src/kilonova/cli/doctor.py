"""`kilonova doctor`: what on this machine would keep a cloud from working, and what to do about it. Changes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kilonova.cli.client import state_dir_option
from kilonova.cli.main import example
from kilonova.cli.output import json_option, show_json

_SIGNS = {"ok": "ok  ", "note": "note", "problem": "FAIL"}


@click.command(short_help="Say what this machine lacks, and what to do.", epilog=example("sudo kilonova doctor"))
@state_dir_option
@json_option
def doctor(state_dir: Path, as_json: bool) -> None:
    """Check packages, kernel features, KVM, address overlaps, foreign firewalls, disk space, the cloud itself.

    Exits 1 when something is wrong; notes alone are no failure.
    """
    from kilonova.service.checks import examine

    findings = examine(state_dir.absolute())
    if as_json:
        show_json([{"check": f.check, "level": f.level, "found": f.found, "advice": f.advice} for f in findings])
    else:
        for finding in findings:
            click.echo(f"{_SIGNS[finding.level]}  {finding.check}: {finding.found}")
            if finding.advice:
                click.echo(f"      -> {finding.advice}")
    if any(finding.level == "problem" for finding in findings):
        sys.exit(1)
