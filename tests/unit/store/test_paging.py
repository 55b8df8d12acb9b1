"""Paging: the pages of a list put together are the list, whatever its order and whatever happens between them."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, insert, select

from kilonova.errors import BadRequest
from kilonova.store.paging import Page, SortKey, paged
from kilonova.store.schema import images, keypairs, metadata, users

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
TIMED = ("created_at", "updated_at")
COLUMNS = ("name", "size_bytes", "min_ram_mb", "protected", "created_at", "id")

rows = st.fixed_dictionaries(
    {
        "name": st.one_of(st.none(), st.sampled_from(["", "a", "b", "ä", "B"])),
        "size_bytes": st.one_of(st.none(), st.sampled_from([-2, -1, 0, 5])),
        "min_ram_mb": st.integers(0, 2),
        "protected": st.booleans(),
        "created_at": st.integers(0, 2).map(lambda days: BEGINNING + timedelta(days=days)),
    }
)
orders = st.lists(st.builds(SortKey, st.sampled_from(COLUMNS), st.booleans()), max_size=4).map(tuple)


@pytest.fixture(scope="module")
def engine() -> Any:
    engine = create_engine("sqlite://")
    metadata.create_all(engine, tables=[images, users, keypairs])
    return engine


def add(tx: Connection, contents: list[dict[str, Any]], first: int = 0) -> None:
    for number, content in enumerate(contents, first):
        # ids in an order unrelated to that of insertion
        name = f"{random.Random(number).getrandbits(32):08x}-{number}"
        tx.execute(insert(images).values(id=name, project_id="p", **content))


def listed(tx: Connection, page: Page) -> list[str]:
    return [row.id for row in paged(tx, select(images), images, page)]


def walk(tx: Connection, sort: tuple[SortKey, ...], limit: int, between: list[dict[str, Any]]) -> list[str]:
    seen: list[str] = []
    page = listed(tx, Page(limit=limit, sort=sort))
    while page:
        assert len(page) <= limit
        seen += page
        if between:
            add(tx, [between.pop()], first=1000 + len(between))
        page = listed(tx, Page(limit=limit, marker=seen[-1], sort=sort))
    return seen


def expected(tx: Connection, sort: tuple[SortKey, ...]) -> list[str]:
    """The order as the documentation says it: NULL is least, the id decides last, in the last key's direction."""
    found = list(tx.execute(select(images)).all())
    keys = (
        [*sort]
        if any(key.column == "id" for key in sort)
        else [*sort, SortKey("id", bool(sort) and sort[-1].descending)]
    )
    for key in reversed(keys):
        found.sort(key=lambda row: _least_first(getattr(row, key.column)), reverse=key.descending)
    return [row.id for row in found]


def _least_first(value: Any) -> tuple[bool, Any]:
    if isinstance(value, str):
        value = value.encode()
    return (value is not None, 0 if value is None else value)


@settings(max_examples=40)
@given(contents=st.lists(rows, max_size=12), sort=orders, limit=st.integers(1, 13))
def test_pages_put_together_are_the_whole_sorted_list(
    engine: Any, contents: list[dict[str, Any]], sort: tuple[SortKey, ...], limit: int
) -> None:
    with engine.connect() as tx:
        add(tx, contents)
        assert listed(tx, Page(sort=sort)) == expected(tx, sort)
        assert walk(tx, sort, limit, []) == expected(tx, sort)


@settings(max_examples=40)
@given(contents=st.lists(rows, max_size=8), new=st.lists(rows, max_size=4), sort=orders, limit=st.integers(1, 4))
def test_inserts_between_pages_neither_double_nor_hide_a_row(
    engine: Any, contents: list[dict[str, Any]], new: list[dict[str, Any]], sort: tuple[SortKey, ...], limit: int
) -> None:
    with engine.connect() as tx:
        add(tx, contents)
        before = expected(tx, sort)
        seen = walk(tx, sort, limit, list(new))
        assert [each for each in seen if each in before] == before
        assert len(set(seen)) == len(seen)
        position = {each: index for index, each in enumerate(expected(tx, sort))}
        assert [position[each] for each in seen] == sorted(position[each] for each in seen)


def test_times_that_may_be_missing_are_paged(engine: Any) -> None:
    sort = (SortKey("password_changed_at", descending=True),)
    with engine.connect() as tx:
        for number, moment in enumerate([None, BEGINNING, None, BEGINNING]):
            values = {"id": str(number), "name": str(number), "domain_id": "d", "password_changed_at": moment}
            tx.execute(insert(users).values(values))
        seen: list[str] = []
        while page := paged(tx, select(users), users, Page(limit=1, marker=seen[-1] if seen else None, sort=sort)):
            seen += [row.id for row in page]
        assert seen == ["3", "1", "2", "0"]


def test_a_marker_is_looked_for_in_the_list_first(engine: Any) -> None:
    """Two users' key pairs may have the same name."""
    with engine.connect() as tx:
        for user, name in (("ann", "k1"), ("ann", "k2"), ("bob", "k1"), ("bob", "k3")):
            tx.execute(insert(keypairs).values(user_id=user, name=name, public_key="", fingerprint=""))
        query = select(keypairs).where(keypairs.c.user_id == "bob")
        assert [row.name for row in paged(tx, query, keypairs, Page(marker="k1"), key="name")] == ["k3"]
        with pytest.raises(BadRequest, match="marker: 'k2' is not in this list"):
            paged(tx, query, keypairs, Page(marker="k2"), key="name")


def test_a_marker_that_a_filter_hides_meanwhile_still_works(engine: Any) -> None:
    with engine.connect() as tx:
        for name, status in (("a", "active"), ("b", "deactivated"), ("c", "active")):
            tx.execute(insert(images).values(id=name, project_id="p", name=name, status=status))
        query = select(images).where(images.c.status == "active")
        assert [row.id for row in paged(tx, query, images, Page(marker="b"))] == ["c"]


@pytest.mark.parametrize("column", ["nothing", "tags", "id; DROP TABLE images", ""])
def test_an_unknown_sort_key_is_named(engine: Any, column: str) -> None:
    with engine.connect() as tx, pytest.raises(BadRequest, match=r"^sort_key: '"):
        paged(tx, select(images), images, Page(sort=(SortKey(column),)))


def test_an_unknown_marker_is_named(engine: Any) -> None:
    with engine.connect() as tx, pytest.raises(BadRequest, match=r"^marker: 'gone' is not in this list"):
        listed(tx, Page(marker="gone"))


def test_a_limit_of_nothing_is_an_empty_page(engine: Any) -> None:
    with engine.connect() as tx:
        add(tx, [{"name": "a"}])
        assert listed(tx, Page(limit=0)) == []
