"""Every command that the README and the docs show works, as it stands there, in the order in which it stands there.

A page's code blocks that hold commands are one shell session. A page whose session starts a cloud has a machine of its
own for it; every other one uses a shared sandbox with light guests, as a member of a project of its own, until the page
itself becomes the administrator (`source $KILONOVA_STATE_DIR/openrc`). Commands in running text are looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

from kilonova.cli.main import kilonova

from .conftest import need_root
from .running import PROGRAMS, ROOT, RunningCloud, free_port, run_program

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(sudo |[A-Z_]+=\S+ |[a-z_]+=\$\()*(kilonova|openstack|curl|ip|nft|make|source|\S*/python)\b")
"""How a line begins that a reader would copy into a shell."""
MENTION = re.compile(r"\b(kilonova|openstack|curl) [a-z-]")
SHELL = (
    'sudo() { [ "$1" = -E ] && shift; "$@"; }\n'  # tests are root, and a container may have no sudo
    "trap 'echo \"line $LINENO: $BASH_COMMAND\" >&2' ERR\nset -eEo pipefail\n"
)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of every code block, fenced or indented."""
    fence: str | None = None
    held: list[str] = []
    before = ""
    for line in [*page.read_text().splitlines(), ""]:
        if line.startswith("```"):
            if fence is not None:
                yield fence, "\n".join(held)
                held = []
            fence = line[3:].strip() if fence is None else None
        elif fence is not None:
            held.append(line)
        elif line.startswith("    ") and (held or not before.startswith(("-", "*", " "))):
            held.append(line[4:])
        elif held:
            yield "", "\n".join(held)
            held = []
        before = line if line.strip() or not before.startswith("    ") else before


def is_session(block: tuple[str, str]) -> bool:
    language, text = block
    return language in {"", "sh"} and any(COMMAND.match(line) for line in text.splitlines())


def session(page: Path) -> list[str]:
    """What a reader types, from the top of the page to its end."""
    return [line for block in blocks(page) if is_session(block) for line in block[1].splitlines()]


def inline(page: Path) -> list[str]:
    """Code in running text and tables."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def name(page: Path) -> str:
    return "index" if page == ROOT / "docs" / "README.md" else page.stem.lower()


WITH_SESSION = [page for page in PAGES if any(not line.startswith("make ") for line in session(page))]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", WITH_SESSION, ids=name)
def test_commands_of_the_page_work(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    lines = [line for line in session(page) if not line.startswith("make ")]
    if any(re.match(r"(sudo )?kilonova up\b", line) for line in lines):
        environment = own_machine(tmp_path)
    else:
        environment = own_project(request.getfixturevalue("docs_sandbox"), name(page))
    script = tmp_path / f"{name(page)}.sh"
    script.write_text(SHELL + "\n".join(lines) + "\n")
    try:
        run_program(["bash", str(script)], environment, check=True, timeout_s=240, directory=tmp_path)
    finally:
        for options in tmp_path.glob("**/options.json"):
            down = [str(PROGRAMS / "kilonova"), "down", "--purge", "--state-dir", str(options.parent)]
            run_program(down, environment, check=True, timeout_s=60)


def own_machine(directory: Path) -> dict[str, str]:
    """The shell of somebody who has no cloud yet."""
    need_root("sandbox")
    port = free_port()
    base = RunningCloud(directory / "state", "sandbox", "namespace", port).environment
    return {**base, "HOME": str(directory), "KILONOVA_LISTEN": f"127.0.0.1:{port}"}


def own_project(cloud: RunningCloud, page: str) -> dict[str, str]:
    """The shell of a member of a new project."""
    cloud.member(f"docs-{page}")
    user = {"OS_USERNAME": f"docs-{page}", "OS_PASSWORD": f"secret-docs-{page}", "OS_PROJECT_NAME": f"docs-{page}"}
    return {**cloud.environment, **cloud.credentials(), **user}


@pytest.fixture(scope="module")
def docs_sandbox(light_sandbox: RunningCloud) -> RunningCloud:
    """With the image `tiny`, as after `make demo`."""
    if light_sandbox.connect().image.find_image("tiny") is None:
        light_sandbox.upload_tiny()
    return light_sandbox


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_are_in_blocks_that_are_run(page: Path) -> None:
    """A block of another language, or a drawing, hides no command from the test above."""
    for block in blocks(page):
        lines = [line for line in block[1].splitlines() if COMMAND.match(line.strip()) or MENTION.search(line)]
        assert is_session(block) or not lines, f"{page.name}: nobody runs {lines}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    lines = [*session(page), *inline(page)]
    for target in {found[1] for line in lines if (found := re.match(r"make ([a-z-]+)", line))}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name} names `make {target}`"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in_running_text_exist(page: Path) -> None:
    """Their words name a command, and their options are options of it."""
    for text in inline(page):
        words = text.removeprefix("sudo ").split()
        if words[:1] == ["kilonova"] and len(words) > 1:
            known, rest = kilonova_command(words[1:])
            options = {word.split("=")[0] for word in rest if word.startswith("--") and word != "--"}
            assert options <= {
                name for parameter in known.params for name in (*parameter.opts, *parameter.secondary_opts)
            }, f"{page.name}: {text}"
        elif words[:1] == ["openstack"] and len(words) > 1:
            assert any("_".join(words[1:n]) in openstack_commands() for n in range(2, len(words) + 1)), text
        elif words[:1] == [".venv/bin/python"]:
            assert (ROOT / words[1]).exists(), f"{page.name}: {text}"


def kilonova_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words name, and the words after it. Fails for one that does not exist."""
    command: click.Command = kilonova
    context = click.Context(command)
    while isinstance(command, click.Group) and words:
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
    return command, words


def openstack_commands() -> set[str]:
    """Names of the client's commands, words joined by underscores."""
    groups = [group for group in entry_points().groups if group.startswith("openstack.")]
    return {entry.name for group in groups for entry in entry_points(group=group)}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_and_modules_that_pages_name_exist(page: Path) -> None:
    files = [
        path.relative_to(ROOT).as_posix()
        for place in ("src", "tests", "bench")
        for path in ROOT.glob(f"{place}/**/*.*")
    ]
    for text in inline(page):
        if re.fullmatch(r"[\w/-]+\.(py|S)", text):
            assert any(f"/{file}".endswith(f"/{text}") for file in files), f"{page.name}: {text}"
        elif re.fullmatch(r"kilonova(\.[a-z_]+)+", text) and not text.endswith((".sqlite", ".internal")):
            module = "src/" + "/".join(text.split(".")[:3])
            assert any(file.startswith((f"{module}/", f"{module}.py")) for file in files), f"{page.name}: {text}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_index_names_every_page() -> None:
    named = re.findall(r"\]\(([a-z-]+\.md)\)", (ROOT / "docs" / "README.md").read_text())
    assert sorted(named) == sorted(page.name for page in PAGES if page.stem != "README")


def test_the_readme_fits_a_screen() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 45
