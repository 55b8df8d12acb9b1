"""Verbs, usage errors and tables of the command line; no cloud needed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kilonova.cli.main import _COMMANDS, kilonova, main
from kilonova.cli.output import show_table


def run(*args: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "kilonova.cli.main", *args]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("verb", sorted(_COMMANDS))
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    result = CliRunner().invoke(kilonova, [verb, "--help"])
    assert result.exit_code == 0, result.output
    assert "Example:" in result.output


def test_every_subcommand_has_help_with_an_example() -> None:
    context = click.Context(kilonova)
    for verb in _COMMANDS:
        group = kilonova.get_command(context, verb)
        for name in group.list_commands(context) if isinstance(group, click.Group) else []:
            result = CliRunner().invoke(kilonova, [verb, name, "--help"])
            assert result.exit_code == 0, result.output
            assert f"Example: kilonova {verb}" in result.output.replace("sudo ", "")


def test_verbs_match_by_unique_prefix() -> None:
    assert CliRunner().invoke(kilonova, ["floa", "li", "--help"]).exit_code == 0
    ambiguous = run("s")
    assert ambiguous.returncode == 2
    assert "could be any of" in ambiguous.stderr


def test_an_unknown_verb_is_a_usage_error() -> None:
    assert run("frobnicate").returncode == 2


@pytest.mark.parametrize("types", ["token-ring", "vlan,vlan", "vlan,,vxlan", ""])
def test_an_order_of_network_types_names_each_once(types: str, tmp_path: Path) -> None:
    refused = CliRunner().invoke(kilonova, ["up", "--simulate", "--network-types", types, "--state-dir", str(tmp_path)])
    assert refused.exit_code == 2
    assert "vlan, vxlan, flat-dhcp, flat" in refused.output
    assert list(tmp_path.iterdir()) == []


def test_failures_are_one_line_and_exit_1(tmp_path: Path) -> None:
    failed = run("project", "list", "--state-dir", str(tmp_path))
    assert failed.returncode == 1
    assert failed.stderr.startswith("kilonova: ")
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "/root/options.json"), OSError(5, "Input")])
def test_what_the_system_refuses_is_one_line(
    error: OSError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("kilonova.cli.lifecycle.existing", fail)
    with pytest.raises(SystemExit) as ending:
        main(["status"])
    assert ending.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("kilonova: ")
    assert said.count("\n") == 1
    assert ("sudo" in said) is isinstance(error, PermissionError)


@pytest.mark.parametrize("assignment", ["nonsense", "num_networks=many", "surprise=1"])
def test_bad_assignments_of_2010_are_usage_errors(assignment: str) -> None:
    refused = run("network", "create", assignment)
    assert refused.returncode == 2
    assert assignment.split("=", maxsplit=1)[0] in refused.stderr


def test_tables_line_up(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(["A", "LONG"], [["x", None], ["wider", True]])
    assert capsys.readouterr().out.splitlines() == ["A      LONG", "-----  ----", "x      -", "wider  yes"]


def test_names_do_not_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(["NAME"], [["\x1b]0;owned\x07web\n"], ["schön"]])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert len(shown.splitlines()) == 4
    assert "schön" in shown


def test_every_verb_that_prints_has_json() -> None:
    silent = {"exec"}  # another program's output
    context = click.Context(kilonova)
    commands = [kilonova.get_command(context, verb) for verb in _COMMANDS]
    leaves = [
        leaf
        for command in commands
        for leaf in (command.commands.values() if isinstance(command, click.Group) else [command])
    ]
    lacking = [leaf.name for leaf in leaves if leaf and "as_json" not in {p.name for p in leaf.params}]
    assert set(lacking) == silent


def test_up_tells_programs_where_the_cloud_is(tmp_path: Path) -> None:
    state = tmp_path / "state"
    try:
        listen = ["--listen", f"127.0.0.1:{free_port()}"]
        started = run("up", "--simulate", "--detach", "--json", "--state-dir", str(state), *listen)
        told = json.loads(started.stdout)
        assert (told["mode"], told["driver"]) == ("simulate", "fake")
        assert Path(told["openrc"]).exists()
        assert json.loads(run("status", "--json", "--state-dir", str(state)).stdout)["url"] == told["url"]
    finally:
        ended = run("down", "--purge", "--json", "--state-dir", str(state))
    assert json.loads(ended.stdout) == {"stopped": True, "removed": [], "purged": True}
