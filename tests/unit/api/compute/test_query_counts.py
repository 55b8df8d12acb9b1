"""Lists ask the store a fixed number of questions, however long they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

Client = Any


@contextmanager
def counted() -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.mark.parametrize("path", ["/servers", "/servers/detail", "/flavors/detail", "/os-hypervisors/detail"])
async def test_a_longer_list_needs_no_more_queries(member: Client, operator: Client, path: str) -> None:
    async def queries() -> int:
        with counted() as statements:
            await operator.ask("GET", f"{path}{'?all_tenants=1' if 'servers' in path else ''}")
        return len(statements)

    await member.wait(await member.server(), "ACTIVE")
    few = await queries()
    made = [await member.server() for _ in range(5)]
    for server_id in made:
        await member.wait(server_id, "ACTIVE")
    assert await queries() == few
