"""A node's copy, taken while it runs, and the node put back from it (I1): the same digests, files and keys,
the next incarnation."""

import contextlib
import io
import json
import pathlib
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from typing import Any

import pyrage
import pytest

from cli import backup
from tests.integration.test_local_node import GOOD, REPORTS, County, mesh
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
    for key in backup.KEYS:
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


def _alter(path: pathlib.Path) -> None:
    with tarfile.open(path) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar.getmembers()]  # type: ignore[union-attr]
    with tarfile.open(path, "w:gz") as tar:
        for member, raw in members:
            changed = raw.replace(b"360423", b"360424") if member.name == "region" else raw
            tar.addfile(member, io.BytesIO(changed))


def test_numbers_nothing_anew_that_another_node_numbers(tmp_path: pathlib.Path) -> None:
    """A province's copy of a county's log may not be published to its end when the backup is taken."""
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as database, database:
        database.executescript(
            "CREATE TABLE mesh_ownership (region, epoch, incarnation);"
            "CREATE TABLE mesh_relay (region, epoch, incarnation, published);"
            "CREATE TABLE mesh_outbox (region, epoch, incarnation, number);"
            "INSERT INTO mesh_ownership VALUES ('360000', 1, 1), ('360423', 2, 1);"
            "INSERT INTO mesh_relay VALUES ('360000', 1, 1, 4), ('360424', 1, 1, 4), ('360423', 1, 1, 4);"
            "INSERT INTO mesh_outbox VALUES ('360000', 1, 1, 4), ('360000', 1, 1, 5), ('360000', 1, 1, NULL),"
            "('360424', 1, 1, 5), ('360423', 1, 1, 5), ('360423', 2, 1, 1);"
        )
    backup._next_incarnation(tmp_path / "x.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as database:
        assert database.execute("SELECT * FROM mesh_outbox ORDER BY rowid").fetchall() == [
            ("360000", 1, 1, 4), ("360000", 1, 2, None), ("360000", 1, 2, None),
            ("360424", 1, 1, 5), ("360423", 1, 1, 5), ("360423", 2, 2, None),
        ]  # fmt: skip
