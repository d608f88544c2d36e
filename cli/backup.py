"""`villagemesh backup` and `restore`: a node's data as one file, taken while it runs. Keys go in only on
request, encrypted to named recipients (age), because data and keys in one place are no longer apart."""

import contextlib
import datetime
import hashlib
import json
import pathlib
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from typing import Any

import click
import pyrage

from cli import serve
from deploy.local import directory

KEYS = (*directory.RINGS, directory.AUDIT_KEY)
SEALED_KEYS, MANIFEST = "keys.age", "manifest.json"
FOLDERS = ("data/attachments", "data/anchors", "trust")
COUNTED = ("mesh_outbox", "mesh_audit", "mesh_step")


def backup(data: pathlib.Path, to: pathlib.Path, recipients: tuple[str, ...]) -> None:
    """Writes the file; exit code 1 with the reason when something cannot be copied."""
    settings, domains = serve.of_node(data)
    if not settings.database_url.startswith("sqlite"):
        raise click.ClickException("PostgreSQL is copied with pg_dump, and the rest of the node with tar")
    if not settings.attachments_url.startswith("file://"):
        raise click.ClickException("its files are in an object store: copy that as its operator says")
    made: dict[str, Any] = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(),
        "files": {},
        "domains": {},
    }
    with (
        tempfile.TemporaryDirectory(dir=to.parent) as folder,
        _replaced(to) as out,
        tarfile.open(out, "w:gz") as tar,
    ):
        for domain in domains:
            copy = pathlib.Path(folder) / f"{domain}.db"
            made["domains"][domain] = _copy(data / f"data/{domain}.db", copy)
            _add(tar, f"data/{domain}.db", copy.read_bytes(), made)
        # files after the databases: what a record refers to was there before it
        for path in (p for f in FOLDERS for p in sorted((data / f).rglob("*")) if p.is_file()):
            with contextlib.suppress(FileNotFoundError):  # collected meanwhile
                _add(tar, str(path.relative_to(data)), path.read_bytes(), made)
        _add(tar, "region", (data / "region").read_bytes(), made)
        if recipients:
            _add(tar, SEALED_KEYS, _sealed(data, recipients), made)
        _add(tar, MANIFEST, json.dumps(made, indent=1).encode(), {"files": {}})
    kept = "sealed inside" if recipients else "not inside"
    click.echo(f"{to}: {len(made['files'])} files of {', '.join(made['domains'])}; keys {kept}")


def restore(data: pathlib.Path, source: pathlib.Path, identity: pathlib.Path | None) -> None:
    """Puts a node back into an empty directory. Its logs begin anew under the next incarnation, so that
    nobody takes an event filed after the copy for one filed after the restore."""
    if data.exists() and any(data.iterdir()):
        raise click.ClickException(f"{data} is not empty")
    with tarfile.open(source, "r:gz") as tar:
        member = tar.extractfile(MANIFEST)
        assert member is not None
        made = json.loads(member.read())
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        tar.extractall(data, filter="data")
    for name, digest in made["files"].items():
        if hashlib.sha256((data / name).read_bytes()).hexdigest() != digest:
            raise click.ClickException(f"{name} in {source} is not what was copied: its digest differs")
    (data / MANIFEST).unlink()
    for path in (data, *(p for p in data.rglob("*"))):
        path.chmod(0o700 if path.is_dir() else 0o600)
    if (data / SEALED_KEYS).exists():
        if identity is not None:
            _open_keys(data, identity)
        (data / SEALED_KEYS).unlink()
    for domain in made["domains"]:
        _next_incarnation(data / f"data/{domain}.db")
    missing = [key for key in KEYS if not (data / key).exists()]
    click.echo(f"{data}: restored as of {made['time']}")
    if missing:
        click.echo(f"put back before it starts: {', '.join(missing)}")


def _copy(source: pathlib.Path, target: pathlib.Path) -> dict[str, Any]:
    """A database as it was at one moment, and what it held."""
    with (
        contextlib.closing(sqlite3.connect(source)) as live,
        contextlib.closing(sqlite3.connect(target)) as kept,
    ):
        live.backup(kept, pages=1000)
        kept.execute("PRAGMA journal_mode=DELETE")
        return digests(kept)


def digests(database: sqlite3.Connection) -> dict[str, Any]:
    """Digest of every table of records over its rows' names, versions and digests; row counts of the rest."""
    tables = [r[0] for r in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found: dict[str, Any] = {}
    for table in sorted(tables):
        columns = {r[1] for r in database.execute(f"PRAGMA table_info({table})")}
        if {"name", "version", "digest"} <= columns:
            sha = hashlib.sha256()
            for row in database.execute(f"SELECT name, version, digest FROM {table} ORDER BY name"):
                sha.update(json.dumps(row).encode())
            found[table] = sha.hexdigest()[:16]
        elif table in COUNTED:
            found[table] = database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return found


def _add(tar: tarfile.TarFile, name: str, raw: bytes, made: dict[str, Any]) -> None:
    directory.pack(tar, name, raw)
    made["files"][name] = hashlib.sha256(raw).hexdigest()


@contextlib.contextmanager
def _replaced(to: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path that becomes `to` when all is written."""
    fresh = to.with_name(f".{to.name}.new")
    try:
        yield fresh
        fresh.chmod(0o600)
        fresh.replace(to)
    finally:
        fresh.unlink(missing_ok=True)


def _sealed(data: pathlib.Path, recipients: tuple[str, ...]) -> bytes:
    keys = {key: (data / key).read_text() for key in KEYS}
    try:
        known = [pyrage.x25519.Recipient.from_str(text) for text in recipients]
    except pyrage.RecipientError as fault:
        raise click.ClickException(f"a recipient is not one of age: {fault}") from fault
    return bytes(pyrage.encrypt(json.dumps(keys).encode(), known))


def _open_keys(data: pathlib.Path, identity: pathlib.Path) -> None:
    lines = [line for line in identity.read_text().splitlines() if line.startswith("AGE-SECRET-KEY-")]
    try:
        known = [pyrage.x25519.Identity.from_str(line) for line in lines]
        keys = json.loads(pyrage.decrypt((data / SEALED_KEYS).read_bytes(), known))
    except (pyrage.IdentityError, pyrage.DecryptError) as fault:
        raise click.ClickException(f"{identity} does not open the keys: {fault}") from fault
    (data / "secrets").mkdir(mode=0o700)
    for key, text in keys.items():
        directory.create(data / key, text)


def _next_incarnation(path: pathlib.Path) -> None:
    """Moves what had not been published over to the new log; the events keep their ids. The logs of other
    nodes, which are copied here, stay as their owners number them."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "UPDATE mesh_outbox SET incarnation = incarnation + 1, number = NULL WHERE (number IS NULL "
            "OR number > coalesce((SELECT published FROM mesh_relay r WHERE r.region = mesh_outbox.region "
            "AND r.epoch = mesh_outbox.epoch AND r.incarnation = mesh_outbox.incarnation), 0)) "
            "AND EXISTS (SELECT 1 FROM mesh_ownership o WHERE o.region = mesh_outbox.region "
            "AND o.epoch = mesh_outbox.epoch AND o.incarnation = mesh_outbox.incarnation)"
        )
        database.execute("UPDATE mesh_ownership SET incarnation = incarnation + 1")
