"""An empty database and one upgraded from the first step end in the same schema; a newer one is left alone."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, insert, inspect, select, text

from kilonova.errors import InternalError, Unavailable
from kilonova.store import migration, schema
from kilonova.store.database import Store, _engine

FIRST = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0001", None
def upgrade():
    op.create_table("parents", sa.Column("id", sa.String(36), primary_key=True), sa.Column("word", sa.String(10)))
    op.create_table("children", sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("parent_id", sa.String(36), sa.ForeignKey("parents.id", ondelete="CASCADE"), nullable=False))
"""
SECOND = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0002", "0001"
def upgrade():
    with op.batch_alter_table("parents", recreate="always") as table:
        table.alter_column("word", type_=sa.String(99))
        table.add_column(sa.Column("more", sa.String(10)))
    {more}
"""


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return _engine(f"sqlite:///{tmp_path}/k.sqlite", begin="BEGIN IMMEDIATE")


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of steps of the test's own, in place of Kilonova's."""
    directory = tmp_path / "migrations"
    (directory / "versions").mkdir(parents=True)
    shutil.copy(migration.MIGRATIONS / "env.py", directory)
    monkeypatch.setattr(migration, "MIGRATIONS", directory)
    (directory / "versions" / "0001.py").write_text(FIRST)
    return directory / "versions"


def _upgrade(engine: Engine) -> None:
    migration.upgrade(engine, str(engine.url))


def _two_generations(engine: Engine) -> None:
    _upgrade(engine)
    with engine.begin() as tx:
        tx.execute(text("INSERT INTO parents VALUES ('p', 'old')"))
        tx.execute(text("INSERT INTO children VALUES ('c', 'p')"))


async def test_an_empty_database_gets_the_schema_and_its_stamp(store: Store, engine: Engine, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "kilonova.sqlite")) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(migration.HEAD,)]
    assert tables == {*schema.metadata.tables, "alembic_version"}


async def test_opening_again_changes_nothing(store: Store) -> None:
    await store.write(lambda tx: tx.execute(insert(schema.roles).values(id="r", name="admin")).rowcount)
    again = Store(store.url)
    await again.open()
    assert await again.read(lambda tx: tx.execute(select(schema.roles.c.id)).scalars().all()) == ["r"]
    await again.close()


async def test_a_newer_database_is_left_alone(store: Store) -> None:
    await store.write(lambda tx: tx.execute(text("UPDATE alembic_version SET version_num = '9999'")).rowcount)
    other = Store(store.url)
    with pytest.raises(Unavailable, match="written by a newer Kilonova"):
        await other.open()
    await other.close()
    found = await store.read(lambda tx: tx.execute(text("SELECT version_num FROM alembic_version")).scalar_one())
    assert found == "9999"


def test_the_steps_end_in_the_schema(engine: Engine) -> None:
    script = ScriptDirectory.from_config(_alembic_config())
    assert script.get_heads() == [migration.HEAD]
    _upgrade(engine)
    with engine.connect() as connection:
        assert migration.revision(connection) == migration.HEAD
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, schema.metadata) == []
    upgraded = _shape(engine)
    direct = _engine(str(engine.url).replace("k.sqlite", "direct.sqlite"), begin="BEGIN IMMEDIATE")
    migration.prepare(direct, str(direct.url))
    assert upgraded == _shape(direct)


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migration.MIGRATIONS))
    return config


def _shape(engine: Engine) -> dict[str, object]:
    """What a database enforces, independent of the order it was written in."""
    found = inspect(engine)
    return {
        table: {
            "columns": {(c["name"], str(c["type"]), c["nullable"]) for c in found.get_columns(table)},
            "primary key": found.get_pk_constraint(table)["constrained_columns"],
            "unique": {tuple(u["column_names"]) for u in found.get_unique_constraints(table)},
            "indexes": {(i["name"], tuple(i["column_names"]), bool(i["unique"])) for i in found.get_indexes(table)},
            "foreign keys": {
                (*f["constrained_columns"], f["referred_table"], *f["referred_columns"], f["options"].get("ondelete"))
                for f in found.get_foreign_keys(table)
            },
        }
        for table in found.get_table_names()
        if table != "alembic_version"
    }


def test_a_rebuilt_table_keeps_the_rows_that_refer_to_it(engine: Engine, steps: Path) -> None:
    _two_generations(engine)
    (steps / "0002.py").write_text(SECOND.format(more="pass"))
    _upgrade(engine)
    with engine.connect() as tx:
        assert tx.execute(text("SELECT word, more FROM parents")).all() == [("old", None)]
        assert tx.execute(text("SELECT id FROM children")).all() == [("c",)]
        assert migration.revision(tx) == "0002"


def test_a_step_that_fails_leaves_the_older_schema_whole(engine: Engine, steps: Path) -> None:
    _two_generations(engine)
    (steps / "0002.py").write_text(SECOND.format(more="op.drop_table('not there')"))
    with pytest.raises(Exception, match="not there"):
        _upgrade(engine)
    with engine.connect() as tx:
        assert [column["name"] for column in inspect(tx).get_columns("parents")] == ["id", "word"]
        assert migration.revision(tx) == "0001"


def test_a_step_that_loses_a_parent_is_undone(engine: Engine, steps: Path) -> None:
    _two_generations(engine)
    (steps / "0002.py").write_text(SECOND.format(more="op.execute('DELETE FROM parents')"))
    with pytest.raises(InternalError, match="without their parent"):
        _upgrade(engine)
    with engine.connect() as tx:
        assert tx.execute(text("SELECT id FROM parents")).all() == [("p",)]
