"""Migrations by Alembic, generated from the derived tables and committed beside each service. Separate
from the database, and Alembic is imported only when there is something to migrate."""

import importlib.util
import pathlib
from typing import Any

import sqlalchemy as sa

from mesh.database import Database

_LOCK = 0x76696C6C616765  # "village": one migration at a time on PostgreSQL


def head(folder: pathlib.Path) -> str:
    """The last revision, as its file is named: `0001` of `0001_first.py`."""
    return max((p.name.split("_")[0] for p in (folder / "versions").glob("[0-9]*.py")), default="")


def current(database: Database) -> str:
    """The revision that a database is at, or empty."""
    with database.engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return ""
        return str(connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() or "")


def upgrade(database: Database, folder: pathlib.Path) -> None:
    """Brings a database to the last revision, under a lock. A database that is ahead of this program
    stops it."""
    at, last = current(database), head(folder)
    if at == last:
        return
    if at > last:
        raise SystemExit(f"villagemesh: the database is at {at}, this program knows only {last}")
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)

    def steps(revision: Any, _context: Any) -> Any:
        return script._upgrade_revs("head", revision)

    with database.engine.connect().execution_options(isolation_level=_level(database)) as connection:
        if database.sqlite:  # the driver leaves transactions alone; each statement by itself would be a sync
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        try:
            with EnvironmentContext(config, script, fn=steps) as environment:
                environment.configure(connection=connection)
                environment.run_migrations()
            if database.sqlite:
                connection.exec_driver_sql("COMMIT")
        except BaseException:
            connection.invalidate()  # with what it has begun
            raise
        connection.commit()


def _level(database: Database) -> Any:
    return "AUTOCOMMIT" if database.sqlite else "READ COMMITTED"


def differences(database: Database, metadata: sa.MetaData) -> list[Any]:
    """What distinguishes a database from the derived tables; empty when nothing."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return [d for d in compare_metadata(context, metadata) if "alembic_version" not in str(d)]


def generate(database: Database, metadata: sa.MetaData, folder: pathlib.Path, title: str) -> pathlib.Path:
    """Writes the revision that brings a migrated database to the derived tables."""
    from alembic.autogenerate import produce_migrations, render_python_code
    from alembic.runtime.migration import MigrationContext

    upgrade(database, folder)
    before = head(folder)
    number = f"{int(before or 0) + 1:04d}"
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        script = produce_migrations(context, metadata)
    if script.upgrade_ops is None or script.upgrade_ops.is_empty():
        raise SystemExit("villagemesh: the committed schema is what the messages derive")
    body = render_python_code(script.upgrade_ops).replace("astext_type=Text()", "astext_type=sa.Text()")
    text = (
        f'"""{title}"""\n\nimport sqlalchemy as sa\nfrom alembic import op\n'
        "from sqlalchemy.dialects import postgresql\n\n"
        f'revision = "{number}"\ndown_revision = {before or None!r}\n\n\n'
        f"def upgrade() -> None:\n    {body.strip()}\n"
    )
    path = folder / "versions" / f"{number}_{title.lower().replace(' ', '_').strip('.')}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    assert importlib.util.spec_from_file_location(number, path)
    return path
