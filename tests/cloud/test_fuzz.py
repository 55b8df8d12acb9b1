"""schemathesis reads the generated OpenAPI files and sends what they allow, and what they do not: never a 5xx."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import MakeCloud
from .running import PROGRAMS, ROOT, run_program

EXAMPLES = 12
APIS = ("identity", "compute", "network", "image")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("api", APIS)
def test_no_request_makes_the_server_fail(make_cloud: MakeCloud, api: str, tmp_path: Path) -> None:
    document = ROOT / "docs" / "openapi" / f"{api}.json"
    assert document.exists(), f"{document}: `python -m kilonova.api.openapi docs/openapi` writes it"
    cloud = make_cloud("simulate", "fake")  # its own: what is allowed to an administrator ruins it for others
    cloud.up()
    token = cloud.connect().auth_token
    argv = [
        str(PROGRAMS / "schemathesis"),
        "run",
        str(document),
        "--url",
        f"http://127.0.0.1:{cloud.port}",
        "--header",
        f"X-Auth-Token: {token}",
        "--checks",
        "not_a_server_error",
        "--max-examples",
        str(EXAMPLES),
        "--phases",
        "examples,fuzzing",
        "--mode",
        "all",
        "--seed",
        "20101110",
        "--request-timeout",
        "20",
        "--workers",
        "2",
        "--no-color",
    ]
    done = run_program(argv, {**cloud.environment, "HOME": str(tmp_path)}, False, 280)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
