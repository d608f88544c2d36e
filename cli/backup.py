"""`villagemesh backup` and `restore`: a node's data as one file, taken while it runs. Keys go in only on
request, encrypted to named recipients (age), because data and keys in one place are no longer apart."""

import contextlib
import datetime
import hashlib
import json
import os
import pathlib
import sqlite3
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import click
import psycopg
import pyrage

from cli import serve
from deploy.local import directory
from gateway import published

KEYS = (*directory.RINGS, directory.AUDIT_KEY, directory.NODE_KEY, directory.LINE, directory.AUTHORITY_KEY)
"""What nothing can stand in for, of those that a node has."""
BEFORE = {"database": "sqlite", "keys": [*directory.RINGS, directory.AUDIT_KEY]}
"""What copies did not say of themselves when there were no others."""
SEALED_KEYS = "keys.age"
FOLDERS = ("data/anchors", "trust")
FILES = "data/attachments"
COUNTED = ("mesh_outbox", "mesh_audit", "mesh_step")


def backup(data: pathlib.Path, to: pathlib.Path, recipients: tuple[str, ...]) -> None:
    """Writes the file; exit code 1 with the reason when something cannot be copied."""
    settings, domains = serve.of_node(data)
    here = settings.attachments_url.startswith("file://")
    take, ending = (_dump, "dump") if _postgresql(settings.database_url) else (_copy, "db")
    made: dict[str, Any] = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(),
        "files": {},
        "domains": {},
        "keys": [key for key in KEYS if (data / key).exists()],
        "database": "postgresql" if _postgresql(settings.database_url) else "sqlite",
    }
    with (
        tempfile.TemporaryDirectory(dir=to.parent) as folder,
        _replaced(to) as out,
        tarfile.open(out, "w:gz", compresslevel=6) as tar,
    ):
        for path in _files(data, *FOLDERS):  # before the databases, which go on beyond these heads
            _add(tar, str(path.relative_to(data)), path, made)
        for domain in (*domains, serve.service(published.NODE).domain):
            copy = pathlib.Path(folder) / domain
            url = settings.database_url.replace("{domain}", domain)
            made["domains"][domain] = take(url, copy)
            _add(tar, f"data/{domain}.{ending}", copy, made)
            copy.unlink()
        for path in _files(data, FILES) if here else ():  # after them: what a record refers to was there
            with contextlib.suppress(FileNotFoundError):  # collected meanwhile
                _add(tar, str(path.relative_to(data)), path, made)
        _add(tar, "region", data / "region", made)
        if recipients:
            directory.pack(tar, SEALED_KEYS, _sealed(data, made["keys"], recipients))
        directory.pack(tar, directory.MANIFEST, json.dumps(made, indent=1).encode())
    kept = "sealed inside" if recipients else "not inside"
    click.echo(f"{to}: {len(made['files'])} files of {', '.join(made['domains'])}; keys {kept}")
    if not here:
        click.echo("attachments are in an object store, and not inside: copy that as its operator says")


def restore(data: pathlib.Path, source: pathlib.Path, identity: pathlib.Path | None, database: str) -> None:
    """Puts a node back into an empty directory, and on PostgreSQL into empty databases. Its logs begin anew
    under the next incarnation, so that nobody takes an event filed after the copy for one filed after the
    restore. Broken off, it has to begin again: the node does not start before it has come to its end."""
    if data.exists() and any(data.iterdir()):
        raise click.ClickException(f"{data} is not empty")
    with tarfile.open(source, "r:gz") as tar:
        member = tar.extractfile(directory.MANIFEST)
        assert member is not None
        made = {**BEFORE, **json.loads(member.read())}
        _fits(made, database)
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.create(data / directory.MANIFEST, json.dumps(made))
        tar.extractall(data, [m for m in tar if m.name != directory.MANIFEST], filter="data")
    for name, digest in made["files"].items():
        if _sha256(data / name) != digest:
            raise click.ClickException(f"{name} in {source} is not what was copied: its digest differs")
    for path in (data, *(p for p in data.rglob("*"))):
        path.chmod(0o700 if path.is_dir() else 0o600)
    if (data / SEALED_KEYS).exists():
        if identity is not None:
            _open_keys(data, identity)
        (data / SEALED_KEYS).unlink()
    for domain, digests_ in made["domains"].items():
        if database:
            _load(data / f"data/{domain}.dump", database.replace("{domain}", domain), digests_)
        else:
            with contextlib.closing(sqlite3.connect(data / f"data/{domain}.db")) as opened, opened:
                opened.execute(NEXT_OF_LOG)
                opened.execute(NEXT_OF_OWNER)
    (data / directory.MANIFEST).unlink()
    click.echo(f"{data}: restored as of {made['time']}")
    if missing := [key for key in made["keys"] if not (data / key).exists()]:
        click.echo(f"put back before it starts: {', '.join(missing)}")


def _files(data: pathlib.Path, *folders: str) -> Iterator[pathlib.Path]:
    return (path for folder in folders for path in sorted((data / folder).rglob("*")) if path.is_file())


def _fits(made: dict[str, Any], database: str) -> None:
    """What the copy is of, and where it is to go."""
    if made["database"] == "sqlite":
        if database:
            raise click.ClickException("the copy is of SQLite, which --database is not for")
        return
    if not database or "{domain}" not in database or not _postgresql(database):
        raise click.ClickException("the copy is of PostgreSQL: --database says where to, with {domain} in it")
    for domain in made["domains"]:
        with _connected(database.replace("{domain}", domain)) as found:
            if found.execute(_COLUMNS).fetchone() is not None:
                raise click.ClickException(f"the database of {domain} is not empty")


NEXT_OF_LOG = (
    "UPDATE mesh_outbox SET incarnation = incarnation + 1, number = NULL WHERE (number IS NULL "
    "OR number > coalesce((SELECT published FROM mesh_relay r WHERE r.region = mesh_outbox.region "
    "AND r.epoch = mesh_outbox.epoch AND r.incarnation = mesh_outbox.incarnation), 0)) "
    "AND EXISTS (SELECT 1 FROM mesh_ownership o WHERE o.region = mesh_outbox.region "
    "AND o.epoch = mesh_outbox.epoch AND o.incarnation = mesh_outbox.incarnation)"
)
"""Moves what had not been published over to the new log; the events keep their ids. The logs of other nodes,
which are copied here, stay as their owners number them."""
NEXT_OF_OWNER = "UPDATE mesh_ownership SET incarnation = incarnation + 1"

_COLUMNS = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
_SQLITE_COLUMNS = (
    "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'"
)


def _copy(url: str, target: pathlib.Path) -> dict[str, Any]:
    """A SQLite database as it was at one moment, and what it held."""
    with (
        contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as live,
        contextlib.closing(sqlite3.connect(target)) as kept,
    ):
        live.backup(kept, pages=1000)
        kept.execute("PRAGMA journal_mode=DELETE")
        return digests(kept)


def _dump(url: str, target: pathlib.Path) -> dict[str, Any]:
    """The same of PostgreSQL, by its own program."""
    with _connected(url) as live:
        live.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        (moment,) = live.execute("SELECT pg_export_snapshot()").fetchone() or ("",)
        _program(
            url, "pg_dump", "--format=custom", "--compress=0", f"--snapshot={moment}", f"--file={target}"
        )
        return digests(live)


def _load(source: pathlib.Path, url: str, digests_: dict[str, Any]) -> None:
    """Puts a database back, and the next incarnation into it."""
    _program(url, "pg_restore", "--single-transaction", "--exit-on-error", str(source))
    with _connected(url) as opened:
        if digests(opened) != digests_:
            raise click.ClickException(f"{source.stem} in its database is not what was copied")
        opened.execute(NEXT_OF_LOG)
        opened.execute(NEXT_OF_OWNER)
    source.unlink()


def _postgresql(url: str) -> bool:
    return url.startswith("postgresql")


def _libpq(url: str) -> str:
    """A URL of SQLAlchemy's as PostgreSQL's own library takes it."""
    return url.replace("+psycopg", "", 1)


def _connected(url: str) -> psycopg.Connection[Any]:
    try:
        return psycopg.connect(_libpq(url), connect_timeout=5)
    except psycopg.OperationalError as fault:
        raise click.ClickException(f"the database cannot be reached: {fault}") from fault


def _program(url: str, name: str, *words: str) -> None:
    """Runs a program of PostgreSQL on a database. Whoever lists processes does not see the password."""
    known: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(_libpq(url))
    secret = {"PGPASSWORD": str(known.pop("password"))} if "password" in known else {}
    where = f"--dbname={psycopg.conninfo.make_conninfo(**known)}"
    try:
        subprocess.run(
            [name, where, "--no-owner", "--no-privileges", *words],
            env={**os.environ, **secret}, check=True, capture_output=True, text=True,
        )  # fmt: skip
    except FileNotFoundError:
        raise click.ClickException(f"{name} is not installed: it comes with PostgreSQL's client") from None
    except subprocess.CalledProcessError as fault:
        raise click.ClickException(fault.stderr.strip()) from fault


def digests(database: Any) -> dict[str, Any]:
    """Of a database of either kind: digest of every table of records over its rows' names, versions and
    digests; row counts of the rest."""
    sqlite = isinstance(database, sqlite3.Connection)
    columns: dict[str, set[str]] = {}
    for table, column in database.execute(_SQLITE_COLUMNS if sqlite else _COLUMNS).fetchall():
        columns.setdefault(table, set()).add(column)
    found: dict[str, Any] = {}
    for table in sorted(columns):
        if {"name", "version", "digest"} <= columns[table]:
            sha = hashlib.sha256()
            order = "name" if sqlite else 'name COLLATE "C"'
            rows = database.cursor() if sqlite else database.cursor(name="rows")
            for row in rows.execute(f"SELECT name, version, digest FROM {table} ORDER BY {order}"):
                sha.update(json.dumps(row).encode())
            rows.close()
            found[table] = sha.hexdigest()[:16]
        elif table in COUNTED:
            found[table] = database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return found


class _Hashed:
    """A file whose digest is known once it was read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sha = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        raw = self._file.read(size)
        self.sha.update(raw)
        return raw


def _add(tar: tarfile.TarFile, name: str, path: pathlib.Path, made: dict[str, Any]) -> None:
    """Adds a file as long as it is now, piece by piece: it may be larger than the machine's memory."""
    with path.open("rb") as file:
        member, hashed = tar.gettarinfo(arcname=name, fileobj=file), _Hashed(file)
        member.mode, member.uid, member.gid, member.uname, member.gname = 0o600, 0, 0, "", ""
        tar.addfile(member, cast(BinaryIO, hashed))
    made["files"][name] = hashed.sha.hexdigest()


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def _sealed(data: pathlib.Path, names: list[str], recipients: tuple[str, ...]) -> bytes:
    keys = {key: (data / key).read_text() for key in names}
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
