"""Programs are run without a shell, to their end or their deadline, and fail with a readable line."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from kilonova.errors import CommandFailed
from kilonova.process import run


def test_the_output_is_returned() -> None:
    assert run(["echo", "a b", "$HOME;`id`"]) == "a b $HOME;`id`\n"


def test_input_and_environment_are_handed_over() -> None:
    program = "import os, sys; print(sys.stdin.read() + os.environ['WORD'])"
    assert run([sys.executable, "-c", program], stdin="ä", env={"WORD": "ö", "PYTHONUTF8": "1"}) == "äö\n"


def test_without_input_a_program_that_reads_sees_the_end() -> None:
    assert run(["cat"], timeout_s=5) == ""


def test_output_that_is_not_utf_8_does_no_harm() -> None:
    assert run(["printf", r"\377a"]) == "\ufffda"


def test_a_failure_holds_the_command_and_its_last_words() -> None:
    with pytest.raises(CommandFailed, match=r"^ls /not/there: exit 2: .*/not/there"):
        run(["ls", "/not/there"])


def test_the_last_words_are_the_output_when_there_are_no_others() -> None:
    program = "print('x' * 5000 + 'the end'); raise SystemExit(3)"
    with pytest.raises(CommandFailed, match=r"exit 3: x{500,}the end$") as caught:
        run([sys.executable, "-c", program])
    assert len(caught.value.message) < 1000


def test_a_signal_is_named() -> None:
    with pytest.raises(CommandFailed, match="killed by signal 9"):
        run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])


def test_an_expected_failure_returns_the_output() -> None:
    assert run([sys.executable, "-c", "print('so far'); raise SystemExit(1)"], check=False) == "so far\n"


def test_a_program_that_is_not_there_names_the_doctor() -> None:
    with pytest.raises(CommandFailed, match=r"not-a-program: not installed .*doctor"):
        run(["not-a-program"])


@pytest.mark.parametrize("argv", [["/etc/passwd"], ["echo", "a\x00b"], ["echo", "x" * 10_000_000]])
def test_a_program_that_cannot_be_started_says_why(argv: list[str]) -> None:
    with pytest.raises(CommandFailed, match="cannot be started"):
        run(argv)


def test_a_program_that_does_not_end_is_killed(tmp_path: Path) -> None:
    program = "import os, signal; print(os.getpid(), file=open('pid', 'w'), flush=True); signal.pause()"
    began = time.monotonic()
    with pytest.raises(CommandFailed, match=r"no end after 0\.5 s"):
        run([sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r}); {program}"], timeout_s=0.5)
    assert time.monotonic() - began < 5
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
