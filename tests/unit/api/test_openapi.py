"""The checked-in OpenAPI descriptions are what the registries say, and are well formed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kilonova.api import openapi
from kilonova.api.registries import all_registries
from kilonova.api.routing import Registry
from kilonova.auth.policy import Policy

FILES = Path(__file__).parents[3] / "docs" / "openapi"

every_api = pytest.mark.parametrize("registry", all_registries(), ids=lambda registry: registry.name)


@every_api
def test_the_file_is_up_to_date(registry: Registry) -> None:
    path = FILES / f"{registry.name}.json"
    advice = "the API changed: run `python -m kilonova.api.openapi docs/openapi` and commit the result"
    written = path.read_text() if path.exists() else ""
    assert written == openapi.text(registry), advice


@every_api
def test_every_route_has_an_operation_of_its_own(registry: Registry) -> None:
    document = openapi.document(registry)
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) == len(registry.routes)
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["summary"] for operation in operations)


@every_api
def test_every_reference_leads_somewhere(registry: Registry) -> None:
    document = openapi.document(registry)

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            found = [reference for value in node.values() for reference in references(value)]
            return [*found, node["$ref"]] if isinstance(node.get("$ref"), str) else found
        return [reference for value in node for reference in references(value)] if isinstance(node, list) else []

    for reference in references(document):
        target: object = document
        for step in reference.removeprefix("#/").split("/"):
            assert isinstance(target, dict)
            assert step in target, reference
            target = target[step]


@every_api
def test_only_what_anyone_may_do_needs_no_token(registry: Registry) -> None:
    document = openapi.document(registry)
    open_to_all = sum(route.policy is Policy.ANYONE for route in registry.routes)
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert sum(operation.get("security") == [] for operation in operations) == open_to_all


def test_errors_have_the_shape_of_the_dialect() -> None:
    for registry in all_registries():
        error = openapi.document(registry)["components"]["responses"]["404"]["content"]["application/json"]
        assert error["schema"]["required"] == list(error["example"])


def test_the_command_writes_a_file_per_api(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert openapi.main([str(tmp_path / "new")]) == 0
    written = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "new").iterdir()}
    assert set(written) == {registry.name for registry in all_registries()}
    assert written["identity"]["openapi"] == "3.1.0"
    assert openapi.main([]) == 2
    assert "usage" in capsys.readouterr().err
