"""`villagemesh keys re-encrypt` and `retire`: what is kept under older keys is brought under the newest of
its ring, while the node runs or not. Records keep their versions and digests, and nobody is told."""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import click

from cli import serve
from mesh import config, database, keys, privacy, resources, runtime, statements, store

CHUNK = 500
"""How many rows are read, and how many are written in one transaction."""
RINGS = ("key_ring", "seal_ring")


class Ring(keys.KeyRing):
    """A ring that counts, by key, the values that it opens and that are not under the newest one."""

    def __init__(self, path: pathlib.Path) -> None:
        self.old: collections.Counter[str] = collections.Counter()
        super().__init__(path)

    def decrypt(self, value: str, context: str) -> str:
        key = value.partition(":")[0]
        if value and key != self.current:
            self.old[key] += 1
        return super().decrypt(value, context)


@dataclasses.dataclass
class Found:
    """What a pass over one domain came across: values under older keys, by ring and key, and rows with a
    value that does not open."""

    old: dict[str, collections.Counter[str]]
    damaged: list[str]


@dataclasses.dataclass(frozen=True)
class Place:
    """A table with something encrypted. `columns` begin with the key and `guard`: a row is written only if
    that is still what was read. `opened` takes a row, `closed` gives columns from what it was opened to."""

    table: Any
    key: tuple[str, ...]
    guard: str
    columns: list[Any]
    first: tuple[Any, ...]
    opened: Callable[[Any], Any]
    closed: Callable[[Any, Any], dict[str, Any]]


def go_through(
    opened: database.Database, service: runtime.Service, settings: config.Settings, *, write: bool
) -> Found:
    """Looks at every encrypted value of a domain and, with `write`, brings it under the newest key. May be
    broken off at any time, and begun again."""
    data, seal = Ring(settings.key_ring), Ring(settings.seal_ring)
    of = store.Store(
        domain=service.domain, schema_=store.schema(service.resources, service.series), database_=opened,
        rings=keys.Rings(data, seal), flows_=(),
    )  # fmt: skip
    found = Found({"key_ring": data.old, "seal_ring": seal.old}, [])
    for place in _places(of):
        build = functools.partial(statements.behind, place.columns, place.key, CHUNK)
        sql, last = of.database.prepare(("kept", place.table.name), build), place.first
        while rows := of.database.fetch(sql, dict(zip(place.key, last, strict=True))):
            last = tuple(rows[-1][_at(place, k)] for k in place.key)
            fresh = [values for row in rows if (values := _renewed(place, row, found))]
            if write and fresh:
                of.database.transact(functools.partial(_write, of.database, place, fresh))
    return found


def _at(place: Place, name: str) -> int:
    return [column.name for column in place.columns].index(name)


def _renewed(place: Place, row: Any, found: Found) -> dict[str, Any]:
    """What to write of a row; nothing when all of it is under the newest key."""
    before = sum(old.total() for old in found.old.values())
    try:
        inside = place.opened(row)
    except ValueError:
        found.damaged.append("/".join([place.table.name, *(str(row[_at(place, k)]) for k in place.key)]))
        return {}
    if sum(old.total() for old in found.old.values()) == before:
        return {}
    was = {f"was_{k}": row[_at(place, k)] for k in (*place.key, place.guard)}
    return {**was, **place.closed(row, inside)}


def _write(opened: database.Database, place: Place, fresh: list[dict[str, Any]], cursor: Any) -> bool:
    """A row that somebody has changed since is left to the next pass: what he wrote is under the newest key,
    or was on its way when that was added."""
    names = tuple(k for k in fresh[0] if not k.startswith("was_"))
    build = functools.partial(statements.replace, place.table, names, (*place.key, place.guard))
    sql = opened.prepare(("renew", place.table.name), build)
    for values in fresh:
        opened.run(cursor, sql, values)
    return True


def _places(of: store.Store) -> list[Place]:
    """Every place of a domain's database that holds something encrypted."""
    return [
        *(_records(codec) for codec in of.codecs.values() if _encrypted(codec)),
        _column(of, of.plumbing.step.c.reason, "{}/steps/{}/reason", ("", -1)),
        _column(of, of.plumbing.request.c.answer, "{}/{}", ("", "")),
    ]


def _encrypted(codec: resources.Codec) -> list[str]:
    return [f.name for f in codec.fields if f.personal or (f.message and privacy.touches(f.message))]


def _records(codec: resources.Codec) -> Place:
    def closed(_row: Any, message: Any) -> dict[str, Any]:
        values = codec.encode(message)
        return {name: values[name] for name in _encrypted(codec)}

    return Place(
        codec.table, ("name",), "version", codec.columns, ("",), lambda row: codec.decode(row).message, closed
    )


def _column(of: store.Store, column: Any, context: str, first: tuple[Any, ...]) -> Place:
    """A column of the plumbing's own that holds one value of the first ring, bound to its row's key."""
    ring, table, name = of.rings.data, column.table, column.name
    key = tuple(k.name for k in table.primary_key)
    return Place(
        table, key, name, [table.c[k] for k in (*key, name)], first,
        lambda row: ring.decrypt(row[2], context.format(*row[:2])),
        lambda row, text: {name: ring.encrypt(text, context.format(*row[:2]))},
    )  # fmt: skip


def of_node(data: pathlib.Path, *, write: bool) -> Found:
    """Every domain that the node in a directory was last started with."""
    settings, domains = serve.of_node(data)
    whole = Found({ring: collections.Counter() for ring in RINGS}, [])
    for domain in domains:
        opened = database.Database(settings.database_url.replace("{domain}", domain), threads=1)
        try:
            found = go_through(opened, serve.service(domain), settings, write=write)
        finally:
            opened.close()
        for ring, old in found.old.items():
            whole.old[ring] += old
        whole.damaged += [f"{domain}: {row}" for row in found.damaged]
    return whole


def reencrypt(data: pathlib.Path) -> None:
    """Says what was there and what is left; exit code 1 when something is."""
    before, left = of_node(data, write=True), of_node(data, write=False)
    for ring in RINGS:
        was = before.old[ring].total()
        click.echo(f"{ring}: {was} values were under older keys, {_said(left.old[ring])}")
    for row in left.damaged:
        click.echo(f"does not open: {row}", err=True)
    if left.damaged or any(old.total() for old in left.old.values()):
        raise SystemExit(1)


def _said(old: collections.Counter[str]) -> str:
    return ", ".join(f"{n} are left under {key}" for key, n in sorted(old.items())) or "none are left"


def retire(data: pathlib.Path, ring: str, key: str) -> None:
    """Takes a key under which nothing is kept any more out of its ring."""
    path = data / "secrets" / f"{ring}.json"
    if count := of_node(data, write=False).old[ring][key]:
        raise click.ClickException(f"{count} values are under {key}; run re-encrypt first")
    try:
        keys.retire(path, key)
    except KeyError:
        raise click.ClickException(f"{ring} has no key {key}") from None
    except ValueError:
        raise click.ClickException(f"{key} is current; rotate first") from None
    click.echo(f"{ring}: {key} is retired; older copies of the data need it, so keep it with them")
