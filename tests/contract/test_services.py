"""Services look alike, and their databases are what their messages say. Walks `services/`, so that a new one
is held to the same."""

import ast
import dataclasses
import itertools
import json
import pathlib
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from cli import revise
from cli.serve import service
from mesh import contract, database, errors, migrations, ownership, regions, runtime, store
from tests import samples
from tests.county import REGION, County, issuer
from village.options.v1 import options_pb2

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
        assert len(ast.get_docstring(opening) or "") > 100, "say in __init__.py what the ministry does"
        assert len(opening.body) == 1

    def test_opens_every_file_with_what_it_is_for(self, domain: str) -> None:
        for path in (ROOT / "services" / domain).glob("*.py"):
            assert ast.get_docstring(ast.parse(path.read_text())), path.name

    def test_is_listed_in_a_short_file(self, domain: str) -> None:
        path = ROOT / "services" / domain / "service.py"
        assert len(path.read_text().splitlines()) <= 100
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
            metadata = store.schema(found.resources, found.series).metadata
            assert migrations.differences(opened, metadata) == []
            assert migrations.current(opened) == migrations.head(found.migrations)
            migrations.upgrade(opened, found.migrations)
        finally:
            opened.close()

    def test_keeps_whose_a_region_is_when_it_is_brought_up_to_date(
        self, domain: str, database_url: str, tmp_path: pathlib.Path
    ) -> None:
        found = service(domain)
        assert found.migrations is not None
        before = shutil.copytree(found.migrations, tmp_path / "migrations")
        for path in (before / "versions").glob("*.py"):
            if not path.name.startswith("0001"):
                path.unlink()
        opened = database.Database(database_url.replace("{domain}", domain), threads=1)
        try:
            migrations.upgrade(opened, before)
            with opened.engine.begin() as connection:
                columns = "(region, domain, epoch, incarnation, frozen)"
                for region, frozen in ((REGION, "false"), ("360424", "true")):
                    values = f"('{region}', '{domain}', 3, 2, {frozen})"
                    connection.execute(sa.text(f"INSERT INTO mesh_ownership {columns} VALUES {values}"))
            migrations.upgrade(opened, found.migrations)
            plumbing = store.schema(found.resources, found.series).plumbing
            grants = ownership.Grants(opened, plumbing, domain)
            grants.read()
            assert grants.all() == [ownership.Grant(REGION, domain, 3, 2)]
            rows = opened.select(sa.select(plumbing.ownership))
            lanes = 1 if opened.sqlite else database.LANES
            assert sorted((r.region, r.lane, bool(r.frozen)) for r in rows) == [
                (region, lane, frozen)
                for region, frozen in ((REGION, False), ("360424", True))
                for lane in range(lanes)
            ]
        finally:
            opened.close()

    def test_differences_would_be_seen(self, domain: str, database_url: str) -> None:
        found = service(domain)
        assert found.migrations is not None
        opened = database.Database(database_url.replace("{domain}", domain), threads=1)
        try:
            migrations.upgrade(opened, found.migrations)
            metadata = sa.MetaData()
            for known in store.schema(found.resources, found.series).metadata.sorted_tables:
                known.to_metadata(metadata)
            table = metadata.sorted_tables[0]
            table.append_column(sa.Column("forgotten", sa.Text))
            assert migrations.differences(opened, metadata)
        finally:
            opened.close()

    def test_gets_migrations_that_lint_takes_as_they_are(
        self, domain: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        empty = dataclasses.replace(service(domain), migrations=tmp_path)
        monkeypatch.setattr(revise, "service", lambda _: empty)
        revise.main(domain, "First tables")
        (written,) = (tmp_path / "versions").glob("*.py")
        # under the name that the rules for migrations go by
        name = ROOT / "services" / domain / "migrations/versions" / written.name
        for words in (("check",), ("format", "--check")):
            command = [sys.executable, "-m", "ruff", *words, "--stdin-filename", str(name), "-"]
            done = subprocess.run(command, input=written.read_bytes(), capture_output=True, cwd=ROOT)  # noqa: PLW1510
            assert done.returncode == 0, done.stdout

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


ROLES = [name.removeprefix("ROLE_") for name in options_pb2.Role.keys()[1:]]
FAR = "110000"


@pytest.fixture
def county(domain: str, tmp_path: pathlib.Path) -> Iterator[County]:
    """A county with that domain, which trusts an issuer in another province as well."""
    opened = County(tmp_path, f"sqlite:///{tmp_path}/{{domain}}.db", service(domain))
    entries = [
        {"issuer": issuer(region), "jwks": "jwks.json", "region": region, "highest_level": "PROVINCE"}
        for region in (REGION, FAR, "360000", "360400", "360424")
    ]
    (tmp_path / "trust/issuers.json").write_text(json.dumps({"issuers": entries}))
    opened.chain.callers._issuers._looked = 0.0
    yield opened
    opened.close()


OWN = options_pb2.SCOPE_OWN_RECORDS


def reaches(scope: int, place: str) -> bool:
    """Whether a scope reaches a record of the county as a whole from there."""
    if scope == options_pb2.SCOPE_OWN_REGION:
        return place == REGION
    return regions.contains(place, REGION)


def guarded(county: County) -> Iterator[tuple[contract.Method, set[str]]]:
    """The methods that are not public, and the roles that their rules name."""
    for method in county.contract.methods.values():
        if all(rule.scope != options_pb2.SCOPE_PUBLIC for rule in method.rules):
            yield method, set().union(*(rule.roles for rule in method.rules))


def answer(county: County, method: contract.Method, raw: bytes, **claims: Any) -> str:
    token = county.minted(organisation=None, **claims) if claims else ""
    try:
        county.raw(method.name, raw, {"authorization": f"Bearer {token}"} if token else {})
    except errors.Refusal as refusal:
        return refusal.reason
    return "OK"


def strange(county: County, roles: list[str], about: tuple[str, ...], **claims: Any) -> dict[str, set[str]]:
    """What methods that name a region or record in a field of `about` answer, other than FORBIDDEN. A
    request that needs more than that name is the domain's to test."""
    plurals = [r.plural for r in county.contract.resources.values()]
    plurals += ["delegations", "unsealings", "deadLetters"]
    names = [f"regions/{REGION}", *(f"regions/{REGION}/{plural}/{uuid.uuid4()}" for plural in plurals)]
    said: dict[str, set[str]] = {}
    for method, named in guarded(county):
        for role in named & {*roles} if method.parent in about else ():
            raws = [method.request(**{method.parent: name}).SerializeToString() for name in names]
            answers = {answer(county, method, raw, roles=[role], **claims) for raw in raws}
            said.setdefault(method.name, set()).update(answers - {"INVALID"})
    assert any(said.values())
    return {name: answers - {"FORBIDDEN"} for name, answers in said.items() if answers - {"FORBIDDEN"}}


@pytest.mark.parametrize("domain", DOMAINS)
class TestWhoMayCall:
    """What can be asked without knowing a domain's requests; `test_access.py` knows those of habitat."""

    def test_is_nobody_without_a_token(self, county: County) -> None:
        assert {answer(county, method, b"") for method, _ in guarded(county)} == {"UNAUTHENTICATED"}

    def test_is_nobody_whose_role_no_rule_names(self, county: County) -> None:
        wrong = [
            (method.name, role)
            for method, named in guarded(county)
            for role in {*ROLES} - named - {"SYS"}
            if answer(county, method, b"", roles=[role]) != "FORBIDDEN"
        ]
        assert wrong == []

    def test_is_whom_its_annotation_lets(self, county: County, domain: str) -> None:
        """Every role at every level, with a good request. What lies in a village is its area's to test."""
        wrong = []
        for name, method in samples.methods(f"village.{domain}.v1").items():
            found = county.contract.methods[name]
            if found.of_nodes or any(r.scope == options_pb2.SCOPE_PUBLIC for r in found.rules):
                continue
            raw = samples.request(method).SerializeToString()
            for role, place in itertools.product({*ROLES} - {"SYS"}, ("360000", "360400", REGION, "360424")):
                may = [rule for rule in found.rules if role in rule.roles and reaches(rule.scope, place)]
                got = answer(county, found, raw, roles=[role], region=place, iss=issuer(place))
                sure = any(not rule.handling_unit and rule.scope != OWN for rule in may)
                if (got == "FORBIDDEN" and sure) or (got != "FORBIDDEN" and not may):
                    wrong.append((name, role, place, got))
        assert wrong == []

    def test_is_nobody_from_another_province(self, county: County) -> None:
        far = {"iss": issuer(FAR), "region": FAR}
        assert strange(county, ROLES, ("name", "parent"), **far) == {}

    def test_is_nobody_of_a_division_for_a_record_that_is_not_there(self, county: County) -> None:
        """Permission stands before existence: a handler that loads without it would say NOT_FOUND."""
        assert strange(county, ["TO", "VO", "GR"], ("name",), region="360423101") == {}
