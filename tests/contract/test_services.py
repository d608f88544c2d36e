"""Services look alike, and their databases are what their messages say. Walks `services/`, so that a new one
is held to the same."""

import ast
import pathlib

import pytest
import sqlalchemy as sa

from cli.serve import service
from mesh import contract, database, migrations, runtime, store

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOMAINS = sorted(p.parent.name for p in (ROOT / "services").glob("*/__init__.py"))


def test_there_is_at_least_one() -> None:
    assert "habitat" in DOMAINS


@pytest.mark.parametrize("domain", DOMAINS)
class TestEveryService:
    def test_has_the_same_parts(self, domain: str) -> None:
        folder = ROOT / "services" / domain
        for part in ("__init__.py", "tables.py", "service.py", "migrations/versions"):
            assert (folder / part).exists(), part
        opening = ast.parse((folder / "__init__.py").read_text())
        assert len(ast.get_docstring(opening) or "") > 100
        assert len(opening.body) == 1

    def test_opens_every_file_with_what_it_is_for(self, domain: str) -> None:
        for path in (ROOT / "services" / domain).glob("*.py"):
            assert ast.get_docstring(ast.parse(path.read_text())), path.name

    def test_is_listed_in_a_file_of_twenty_lines(self, domain: str) -> None:
        path = ROOT / "services" / domain / "service.py"
        assert len(path.read_text().splitlines()) <= 40
        found = service(domain)
        assert isinstance(found, runtime.Service)
        assert (found.domain, found.package) == (domain, f"village.{domain}.v1")

    def test_handles_exactly_what_its_package_declares(self, domain: str) -> None:
        found = service(domain)
        declared = contract.read(found.package)
        assert {*found.handlers, *runtime.FOUNDATION} == set(declared.methods)
        kept = {cls.DESCRIPTOR.full_name for cls in found.resources}
        assert kept == set(declared.resources)

    def test_has_a_database_that_is_what_its_messages_say(self, domain: str, database_url: str) -> None:
        found = service(domain)
        assert found.migrations is not None
        opened = database.Database(database_url.replace("{domain}", domain), threads=1)
        try:
            migrations.upgrade(opened, found.migrations)
            metadata = store.schema(found.resources).metadata
            assert migrations.differences(opened, metadata) == []
            assert migrations.current(opened) == migrations.head(found.migrations)
            migrations.upgrade(opened, found.migrations)
        finally:
            opened.close()

    def test_differences_would_be_seen(self, domain: str, database_url: str) -> None:
        found = service(domain)
        assert found.migrations is not None
        opened = database.Database(database_url.replace("{domain}", domain), threads=1)
        try:
            migrations.upgrade(opened, found.migrations)
            metadata = store.schema(found.resources).metadata
            table = metadata.sorted_tables[0]
            table.append_column(sa.Column("forgotten", sa.Text))
            assert migrations.differences(opened, metadata)
        finally:
            opened.close()

    def test_refuses_a_database_that_is_ahead(self, domain: str, database_url: str) -> None:
        found = service(domain)
        assert found.migrations is not None
        opened = database.Database(database_url.replace("{domain}", domain), threads=1)
        try:
            migrations.upgrade(opened, found.migrations)
            with opened.engine.connect() as connection:
                connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
                connection.commit()
            with pytest.raises(SystemExit, match="9999"):
                migrations.upgrade(opened, found.migrations)
        finally:
            opened.close()
