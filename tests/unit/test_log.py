"""Log lines: where they go, the request id in each, and no secret in any."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilonova import log as logs

SECRET = "gAAAAhunter2"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was again afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    "line",
    [
        f"X-Auth-Token: {SECRET}",
        f"x-subject-token={SECRET} and more",
        f"headers [(b'x-auth-token', b'{SECRET}'), (b'host', b'cloud')]",
        f"Authorization: Bearer {SECRET}",
        f"authorization: Basic {SECRET}",
        f"{{'Authorization': 'Bearer {SECRET}'}}",
        json.dumps({"user": {"name": "ann", "password": SECRET}}),
        json.dumps({"password": f"with blanks, {SECRET} and 'quotes'"}),
        json.dumps({"original_password": f'a "quoted" {SECRET}'}),
        json.dumps({"auth": {"identity": {"token": {"id": SECRET}}}}),
        json.dumps({"adminPass": SECRET}),
        json.dumps({"user_data": SECRET}),
        repr({"password": f"it's {SECRET}"}),
        f"password={SECRET}",
        f"User(name='ann', password='{SECRET}', enabled=True)",
        f"GET /console?token={SECRET}&path=x",
        f"amqp://kilonova:{SECRET}@broker:5672/",
        f"postgresql+asyncpg://kilonova:{SECRET}@db/kilonova",
        f"kilonova up --admin-password {SECRET} --detach",
        f"openstack --os-password={SECRET} server list",
        f"OS_PASSWORD={SECRET}",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n{SECRET}\n-----END OPENSSH PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
        f"secret: {SECRET}",
    ],
)
def test_secrets_are_cut_out(line: str) -> None:
    assert SECRET not in logs.redacted(line)
    assert "hunter2" not in logs.redacted(line)
    assert "***" in logs.redacted(line)


@pytest.mark.parametrize(
    "line",
    [
        "GET /compute/v2.1/servers/0b5e-7 200 1.2 ms",
        "http://127.0.0.1:8770/identity/v3",
        "fa:16:3e:00:00:01 has 10.0.0.3",
        "The request needs a token",
        "ann's password was changed",
        "token_lifetime_s and user 7",
    ],
)
def test_other_lines_stay_as_they_are(line: str) -> None:
    assert logs.redacted(line) == line


def test_what_stands_beside_a_secret_stays_readable() -> None:
    line = logs.redacted(json.dumps({"name": "ann", "password": "a b", "enabled": True}))
    assert '"name": "ann"' in line
    assert '"enabled": true' in line


def test_a_line_has_the_request_id_and_no_line_break_of_a_client(root: logging.Logger, tmp_path: Path) -> None:
    logs.setup(tmp_path / "logs")
    logs.request_id.set("req-42")
    logging.getLogger("kilonova.api").info("GET %s", "/a\n2026 INFO forged\x1b[0m")
    (line,) = (tmp_path / "logs" / "kilonova.log").read_text().splitlines()
    assert "INFO kilonova.api req-42 GET /a\\x0a2026 INFO forged\\x1b[0m" in line


def test_secrets_are_cut_from_tracebacks(root: logging.Logger, tmp_path: Path) -> None:
    logs.setup(tmp_path)
    try:
        raise ValueError(f"password={SECRET}")
    except ValueError:
        logging.getLogger("kilonova").exception("failed with token=%s", SECRET)
    written = (tmp_path / "kilonova.log").read_text()
    assert SECRET not in written
    assert "Traceback" in written
    assert len(written.splitlines()) > 3


def test_without_a_directory_lines_go_to_standard_error(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.setup(None)
    logging.getLogger("kilonova").warning("words")
    logging.getLogger("kilonova").debug("too fine")
    error = capsys.readouterr().err
    assert "WARNING kilonova" in error
    assert "too fine" not in error
