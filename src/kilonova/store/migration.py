"""Brings a database to the present schema.

An empty database gets the whole schema at once and is stamped; an older one is upgraded step by step with Alembic,
whose import is put off until it is needed because start-up is counted in milliseconds. A test holds that both ways end
in the same schema.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from kilonova.errors import InternalError, Unavailable
from kilonova.store import schema

HEAD = "0002"
"""The newest revision under `migrations/versions`."""

MIGRATIONS = Path(__file__).parent / "migrations"


def revision(connection: Connection) -> str | None:
    """The revision a database is stamped with; none when it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def prepare(engine: Engine, url: str) -> None:
    """Create the schema in an empty database, or upgrade an older one.

    Raises `Unavailable` when the database was written by a newer Kilonova.
    """
    with engine.begin() as connection:
        found = revision(connection)
        if found is None:
            schema.metadata.create_all(connection)
            connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
            connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})
    if found is not None and found != HEAD:
        upgrade(engine, url)


def upgrade(engine: Engine, url: str, target: str = "head") -> None:
    """Run the Alembic steps up to `target`."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    with engine.connect() as connection:
        # Alembic changes a SQLite table by copying and dropping it; with foreign keys on, the drop would delete the
        # rows of the tables that refer to it. Only outside a transaction can that be switched.
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("PRAGMA foreign_keys=OFF")
        with connection.begin():
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, target)
            except CommandError as error:
                raise Unavailable(f"the database {url} was written by a newer Kilonova: {error}") from error
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
            if broken:
                raise InternalError(f"the upgrade of {url} would leave rows without their parent: {broken[:3]}")
