"""`kilonova doctor`: what on this machine would keep a cloud from working, what in the cloud is not as it should be."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kilonova.cli.client import state_dir_option
from kilonova.cli.main import example
from kilonova.cli.output import json_option, plain_text, show_json

_SIGNS = {"ok": "ok  ", "note": "note", "problem": "FAIL"}


@click.command(
    short_help="Say what this machine lacks, and what is not as it should be.", epilog=example("sudo kilonova doctor")
)
@click.option("--mend", is_flag=True, help="Mend drift and leaks, where that is safe. Default: only report them.")
@state_dir_option
@json_option
def doctor(mend: bool, state_dir: Path, as_json: bool) -> None:
    """Check packages, kernel features, KVM, address overlaps, foreign firewalls, disk space, the cloud itself.

    Of a cloud that runs, also drift (a host's kernel is not as planned) and leaks (what belongs to nothing): rows,
    namespaces, devices, processes, files. Nothing is changed without --mend. Exits 1 when something is wrong that was
    not mended; notes alone are no failure.
    """
    from kilonova.service.audit import examine_cloud
    from kilonova.service.checks import examine

    findings = [*examine(state_dir.absolute()), *examine_cloud(state_dir.absolute(), mend=mend)]
    if as_json:
        show_json([{"check": f.check, "level": f.level, "found": f.found, "advice": f.advice} for f in findings])
    else:
        for finding in findings:
            click.echo(plain_text(f"{_SIGNS[finding.level]}  {finding.check}: {finding.found}"))
            if finding.advice:
                click.echo(plain_text(f"      -> {finding.advice}"))
    if any(finding.level == "problem" for finding in findings):
        sys.exit(1)
