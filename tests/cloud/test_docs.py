"""Every command that the README and the docs show to users works, as it stands there, in the order it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import MakeCloud
from running import ROOT, RunningCloud, free_port

PROGRAMS = ("kilonova", "openstack")


def commands(page: Path) -> list[str]:
    """The indented lines of a page, without comments."""
    lines = [line[4:] for line in page.read_text().splitlines() if re.match(r" {4}[a-zA-Z/]", line)]
    return [re.sub(r"\s{2,}#.*$", "", line) for line in lines]


def run_page(lines: list[str], environment: dict[str, str], directory: Path) -> None:
    """One shell for the whole page; the first command that fails is the error."""
    script = directory / "page.sh"
    body = "\n".join(lines)
    script.write_text(f'set -e\nsudo() {{ [ "$1" = -E ] && shift; "$@"; }}\nset -x\n{body}\n')
    argv = ["bash", str(script)]
    done = subprocess.run(
        argv, cwd=directory, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-3000:]}"


@pytest.mark.timeout(360)
def test_commands_of_the_tutorial_work(light_sandbox: RunningCloud, tmp_path: Path) -> None:
    light_sandbox.upload_tiny()
    lines = commands(ROOT / "docs" / "tutorial.md")
    assert len(lines) > 15
    run_page(lines, light_sandbox.environment, tmp_path)


@pytest.mark.timeout(360)
def test_commands_of_the_operators_guide_work(make_cloud: MakeCloud, tmp_path: Path) -> None:
    cloud = make_cloud("sandbox", "namespace")
    cloud.up()
    cloud.down("--purge")
    environment = {**cloud.environment, "KILONOVA_LISTEN": f"127.0.0.1:{cloud.port}"}
    lines = commands(ROOT / "docs" / "operating.md")
    first_purge = next(i for i, line in enumerate(lines) if "--purge" in line)
    assert first_purge > 2
    up_again = ["kilonova up --sandbox --driver namespace --detach"]
    run_page(lines[: first_purge + 1] + up_again + _reachable(lines[first_purge + 1 :]), environment, tmp_path)


def _reachable(lines: list[str]) -> list[str]:
    """The guide's example address belongs to no server here: the sandbox's gateway answers in its place."""
    return [line.replace("203.0.113.12", "203.0.113.1") for line in lines if "curl" not in line]


def test_command_of_the_readme_starts_a_control_plane(tmp_path: Path) -> None:
    line = next(line for line in commands(ROOT / "README.md") if line.startswith("kilonova up"))
    home = tmp_path / "home"
    home.mkdir()
    base = RunningCloud(home / "kilonova", "simulate", "fake", free_port())
    environment = {**base.environment, "HOME": str(home), "KILONOVA_LISTEN": f"127.0.0.1:{base.port}"}
    try:
        run_page([f"{line} --detach", "kilonova status --state-dir ~/kilonova"], environment, tmp_path)
    finally:
        base.down("--purge")


def test_make_targets_that_the_readme_names_exist() -> None:
    text = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"make ([a-z]+)", text))
    assert {"demo", "test", "down"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"README names `make {target}`"


def test_programs_are_on_the_path_of_the_environment(simulated: RunningCloud) -> None:
    for program in PROGRAMS:
        assert shutil.which(program, path=simulated.environment["PATH"]), program
    assert os.access(simulated.state_dir / "openrc", os.R_OK)
