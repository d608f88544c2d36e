"""One domain's data on this node: its database with the codecs, keys, grants, calendar and flows that
belong to it. What a call reads and commits through."""

import contextlib
import dataclasses
import datetime
import functools
import os
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from google.protobuf.message import Message
from sqlalchemy.dialects import postgresql, sqlite

from mesh import (
    calendar,
    contract,
    database,
    flows,
    keys,
    ownership,
    resources,
    statements,
    tables,
    telemetry,
)
from village.mesh.v1 import (
    calendar_pb2,
    dead_letter_pb2,
    delegation_pb2,
    delivery_pb2,
    unsealing_pb2,
)
from village.type.v1 import level_pb2, step_pb2

RECENT_S = 1.0
LEAST_BYTES = 32 * 1024 * 1024
"""With less room on its disk a node says that it is full. Broker and database have the same, and the last of
it is the database's: a broker that met the end of a disk stores nothing more until it is started anew."""
ALIKE = (
    calendar_pb2.Calendar,
    delegation_pb2.Delegation,
    unsealing_pb2.Unsealing,
    dead_letter_pb2.DeadLetter,
    delivery_pb2.Delivery,
)
"""What every domain keeps."""
_levels = {name.removeprefix("LEVEL_"): number for name, number in level_pb2.Level.items()}
_level_names = {number: name for name, number in _levels.items()}
REQUESTS_KEPT = datetime.timedelta(hours=24)


@dataclasses.dataclass(frozen=True)
class Schema:
    """A domain's tables, derived from its messages."""

    metadata: sa.MetaData
    plumbing: tables.Plumbing
    resources: dict[str, contract.Resource]


def schema(
    resource_classes: Sequence[type[Message]], series: Callable[[sa.MetaData], None] | None = None
) -> Schema:
    """Derives the tables of a domain: the plumbing's, the calendars and one per resource; and those of what
    is no resource because there is too much of it. `metadata.info["of"]` says of each of these, by its name,
    which rows belong to a region: (region) → condition. The same for the same: nobody adds to it."""
    return _schema(tuple(resource_classes), series)


@functools.cache
def _schema(
    resource_classes: Sequence[type[Message]], series: Callable[[sa.MetaData], None] | None
) -> Schema:
    metadata = sa.MetaData()
    if series is not None:
        series(metadata)
    found = [contract.resource(cls) for cls in (*resource_classes, *ALIKE)]
    for resource in found:
        resources.table(resource, metadata)
    return Schema(metadata, tables.plumbing(metadata), {r.shape.full_name: r for r in found})


def series(metadata: sa.MetaData) -> dict[str, Callable[[str], Any]]:
    """The tables of a domain that hold no resources, each with the condition for a region's rows."""
    return dict(sorted(metadata.info.get("of", {}).items()))


class Store:
    """An opened domain."""

    def __init__(
        self,
        *,
        domain: str,
        schema_: Schema,
        database_: database.Database,
        rings: keys.Rings,
        flows_: Sequence[flows.Flow],
        files: Any = None,
        reactions: Sequence[Any] = (),
    ) -> None:
        self.files, self.reactions = files, {reaction.name: reaction for reaction in reactions}
        self.kept_files: dict[str, dict[str, Any]] = {}
        """What is known of files, by digest; a hint, as the commit decides."""
        self.domain, self.database, self.rings = domain, database_, rings
        self.plumbing, self.metadata = schema_.plumbing, schema_.metadata
        self.sqlite = database_.sqlite
        self.codecs = {
            name: resources.Codec(
                resource, schema_.metadata.tables[resource.table], rings, domain=domain, sqlite=self.sqlite
            )
            for name, resource in schema_.resources.items()
        }
        self.flows = {flow.resource.DESCRIPTOR.full_name: flow for flow in flows_}
        self.grants = ownership.Grants(database_, schema_.plumbing, domain)
        self.confirmed: dict[tuple[str, str], tuple[int, int, int]] = {}
        """By region and node: epoch, incarnation and number up to which that node has the region's log."""
        self.receivers: dict[str, str] = {}
        """By region that is frozen the node that it is moved to, as the province says again and again."""
        self.arriving: dict[str, bytearray] = {}
        """Files of a region that moves here, as far as they have come."""
        self.reduced: dict[tuple[str, str], str] = {}
        """By region that has moved away and kind, up to which record only what may leave is left."""
        self.copied = 0
        """Counts up when the log of another node is copied for the first time."""
        self.calendar = calendar.Calendar({})
        self._policies: dict[str, Any] = {}
        self._recent: dict[Any, tuple[float, Sequence[Any]]] = {}

    def cramped(self) -> bool:
        """Whether there is little room on the database's disk; never for a server, which minds its own."""
        folder = os.path.dirname(self.database.engine.url.database or "")
        return self.sqlite and shutil.disk_usage(folder or ".").free < LEAST_BYTES

    def codec(self, cls: type[Message]) -> resources.Codec:
        return self.codecs[cls.DESCRIPTOR.full_name]

    def flow(self, cls: type[Message]) -> flows.Flow:
        return self.flows[cls.DESCRIPTOR.full_name]

    def instant(self, moment: datetime.datetime) -> Any:
        """A moment as the driver wants it."""
        return resources.instant(moment, sqlite=self.sqlite)

    def row(self, codec: resources.Codec, name: str) -> resources.Row | None:
        """A resource by name, or None."""
        table = codec.table
        sql = self.database.prepare(
            ("get", table.name),
            lambda: sa.select(*codec.columns).where(table.c.name == sa.bindparam("name", type_=sa.Text)),
        )
        with telemetry.part("read"):
            found = self.database.fetch(sql, {"name": name})
        return codec.decode(found[0]) if found else None

    def every(self, cls: type[Message]) -> list[Any]:
        """Every resource of a kind that there is only a little of."""
        codec = self.codec(cls)
        return [codec.decode(row).message for row in self.database.select(sa.select(*codec.columns))]

    def recent(self, cls: type[Message], build: Any, parameters: dict[str, Any]) -> Sequence[Any]:
        """Rows of the question `build(table)` on a resource's table, at most RECENT_S old and none of this
        process's changes missed."""
        table = self.codec(cls).table
        place = (table.name, build, *parameters.values())
        return self._lately(place, (table.name, build), lambda: build(table), parameters)

    def copied_times(self) -> dict[str, datetime.datetime]:
        """How fresh the copy of each region is that another node owns."""
        t = self.plumbing.cursor
        build = sa.select(t.c.region, t.c.read_time).where(t.c.read_time.is_not(None))
        rows = self._lately((t.name,), t.name, lambda: build, {})
        return {region: resources.when(read) for region, read in rows}

    def _lately(self, place: Any, key: Any, build: Any, parameters: dict[str, Any]) -> Sequence[Any]:
        known = self._recent.get(place)
        if known is None or time.monotonic() - known[0] > RECENT_S:
            asked = time.monotonic()
            sql = self.database.prepare(key, build)
            known = self._recent[place] = (asked, self.database.fetch(sql, parameters))
        return known[1]

    def commit(self, commit: statements.Commit) -> None:
        """The one commit, as `Database.commit`."""
        with telemetry.part("commit"):
            self.database.commit(commit)
        changed = {write.table.name for write in commit.writes}
        for place in [place for place in self._recent if place[0] in changed]:
            self._recent.pop(place, None)

    def policy(self, cls: type[Message], name: str) -> Any:
        """A policy by name. Policies never change, so it is read once. KeyError when there is none."""
        if name not in self._policies:
            row = self.row(self.codec(cls), name)
            if row is None:
                raise KeyError(name)
            self._policies[name] = row.message
        return self._policies[name]

    def history(self, name: str, *, after: int = 0, limit: int = 10_000) -> list[step_pb2.Step]:
        """The steps of a resource from number `after` + 1 on."""
        c = self.plumbing.step.c
        sql = self.database.prepare(
            "history",
            lambda: (
                sa.select(self.plumbing.step)
                .where(c.name == sa.bindparam("name", type_=sa.Text))
                .where(c.number > sa.bindparam("after", type_=sa.Integer))
                .order_by(c.number)
                .limit(sa.bindparam("most", type_=sa.Integer))
                .offset(sa.literal_column("0"))  # else SQLite adds a parameter of its own
            ),
        )
        rows = self.database.fetch(sql, {"name": name, "after": after, "most": limit})
        return [self._step(row) for row in rows]

    def _step(self, row: Any) -> step_pb2.Step:
        (name, number, action, from_state, to_state, actor, role, unit, time, reason, due, level, to_unit,
         deputy, cause) = row  # fmt: skip
        known: Any = _levels[level] if level in _levels else int(level)
        step = step_pb2.Step(
            number=number, action=action, from_state=from_state, to_state=to_state, actor=actor, role=role,
            organisation=unit, time=resources.stamp(resources.when(time)),
            reason=self.rings.data.decrypt(reason, f"{name}/steps/{number}/reason"),
            level=known, unit=to_unit, deputy=deputy, cause=cause,
        )  # fmt: skip
        if due is not None:
            step.due_time.CopyFrom(resources.stamp(resources.when(due)))
        return step

    def step_values(self, name: str, step: step_pb2.Step) -> dict[str, Any]:
        """A step as a row."""
        due = resources.stamped(step.due_time, sqlite=self.sqlite) if step.HasField("due_time") else None
        return {
            "name": name, "number": step.number, "action": step.action, "from_state": step.from_state,
            "to_state": step.to_state, "actor": step.actor, "role": step.role,
            "organisation": step.organisation, "time": resources.stamped(step.time, sqlite=self.sqlite),
            "reason": self.rings.data.encrypt(step.reason, f"{name}/steps/{step.number}/reason"),
            "due_time": due, "level": _level_names.get(step.level) or str(step.level),
            "unit": step.unit, "deputy": step.deputy, "cause": step.cause,
        }  # fmt: skip

    def answered(self, caller: str, request_id: str) -> tuple[str, str] | None:
        """(fingerprint, sealed answer) of a request that was answered before."""
        table = self.plumbing.request
        sql = self.database.prepare(
            "answered",
            lambda: sa.select(table.c.fingerprint, table.c.answer).where(
                table.c.caller == sa.bindparam("caller", type_=sa.Text),
                table.c.request_id == sa.bindparam("request_id", type_=sa.Text),
            ),
        )
        rows = self.database.fetch(sql, {"caller": caller, "request_id": request_id})
        return (rows[0][0], rows[0][1]) if rows else None

    step_class = step_pb2.Step

    def add_missing(self, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        """Adds rows of the same columns; those that are there already stay."""
        if not rows:
            return
        names = tuple(rows[0])

        def build() -> Any:
            insert: Any = (sqlite if self.sqlite else postgresql).insert(table)
            values = {k: sa.bindparam(f"x_{k}", type_=table.c[k].type) for k in names}
            return insert.values(values).on_conflict_do_nothing()

        sql = self.database.prepare(("missing", table.name, names), build, many=True)
        given = [{f"x_{k}": v for k, v in row.items()} for row in rows]
        self.database.transact(lambda cursor: self.database.run_many(cursor, sql, given) and None)

    def forget_requests(self, now: datetime.datetime) -> None:
        """Drops the answers that are older than promised."""
        self.forget(self.plumbing.request, now - REQUESTS_KEPT)

    def forget(self, table: sa.Table, before: datetime.datetime) -> None:
        """Drops rows of a plumbing table that are older than promised."""
        sql = self.database.prepare(
            ("forget", table.name),
            lambda: sa.delete(table).where(table.c.time < sa.bindparam("t", type_=tables.INSTANT)),
        )
        values = {"t": self.instant(before)}
        self.database.transact(lambda cursor: self.database.run(cursor, sql, values) and None)

    def cursors(self) -> list[dict[str, Any]]:
        """How far each copy is."""
        return [dict(row._mapping) for row in self.database.select(self.plumbing.cursor.select())]

    def other_logs(self) -> list[ownership.Grant]:
        """The logs that this node publishes to its own subscribers and does not write: those of other nodes,
        as they are copied, and its own of earlier times, which may not be published to their end."""
        t, own = self.plumbing.relay, set(self.grants.all())
        rows = self.database.select(sa.select(t.c.region, t.c.epoch, t.c.incarnation))
        found = [ownership.Grant(region, self.domain, epoch, inc) for region, epoch, inc in rows]
        return [log for log in found if log not in own]

    def wind_up(self, region: str) -> None:
        """Makes the limits of a region's open records ring here from now on: as a copy they did not."""
        for kind, flow in ((k, f) for k, f in self.flows.items() if f.policy is not None):
            t = self.codecs[kind].table
            names = [flow.state_name(state) for state in flow.open_states()]
            self.database.change(
                t.update()
                .where(t.c.region == region, t.c.state.in_(names), t.c.due_time.is_not(None))
                .where(t.c.alarm_time.is_(None))
                .values(alarm_time=t.c.due_time)
            )

    def used(self, region: str) -> bool:
        """Whether there is a record of a region that somebody made, rather than the plumbing."""
        for codec in self.codecs.values():
            t = codec.table
            mine = sa.select(t.c.name).where(t.c.region == region, t.c.owner.not_in(("", "system"))).limit(1)
            if self.database.select(mine):
                return True
        return False

    def own(self, region: str) -> None:
        """Records that this node owns its region from the first epoch on, unless something is recorded."""
        table = self.plumbing.ownership
        first = {"region": region, "domain": self.domain, "epoch": 1, "incarnation": 1, "frozen": False}
        if not self.database.select(sa.select(table.c.region).where(table.c.domain == self.domain)):
            with contextlib.suppress(database.Taken):  # another process of ours was first
                self._put(table, first)
        self.grants.read()

    def refresh_calendar(self, region: str, now: datetime.datetime, known: Any = calendar.announced) -> bool:
        """Takes over years that have been announced; whether anything changed that limits may rest on."""
        codec = self.codec(calendar_pb2.Calendar)
        stored = self.every(calendar_pb2.Calendar)
        fresh = calendar.renewed(stored, region=region, now=now, known=known)
        for message in fresh:
            values = {
                "name": message.name, "region": region, "version": 1, "owner": "system",
                "alarm_time": None, "digest": "", **codec.encode(message),
            }  # fmt: skip
            with contextlib.suppress(database.Taken):  # another process of ours was first
                self._put(codec.table, values)
        self.calendar = calendar.of([*stored, *fresh])
        return any(f.edition > 1 for f in fresh)

    def lookup(self, table: sa.Table, **values: Any) -> dict[str, Any] | None:
        """The row of a plumbing table with these values, by column, or None."""
        given = {k: sa.bindparam(k, type_=table.c[k].type) for k in values}
        sql = self.database.prepare(
            ("lookup", table.name, *values),
            lambda: sa.select(table).where(*(table.c[k] == v for k, v in given.items())),
        )
        found = self.database.fetch(sql, values)
        return dict(zip(table.columns.keys(), found[0], strict=True)) if found else None

    def replace(self, table: sa.Table, values: dict[str, Any], *, key: str) -> None:
        """Adds a row of a plumbing table, or puts it in the place of the one with the same key."""
        names = ", ".join(values)
        given = [sa.bindparam(k, v, type_=table.c[k].type) for k, v in values.items()]
        text = (
            f"INSERT INTO {table.name} ({names}) VALUES ({', '.join(f':{n}' for n in values)}) "
            f"ON CONFLICT ({key}) DO UPDATE SET {', '.join(f'{n} = excluded.{n}' for n in values)}"
        )
        sql = self.database.prepare(("replace", table.name), lambda: sa.text(text).bindparams(*given))
        self.database.transact(lambda cursor: self.database.run(cursor, sql, values) and None)

    def _put(self, table: sa.Table, values: dict[str, Any]) -> None:
        """Adds a row that nobody is told of."""
        build = functools.partial(statements.insert, table, tuple(values), "")
        sql = self.database.prepare(("put", table.name), build)
        self.database.transact(lambda cursor: self.database.run(cursor, sql, values) and None)
