"""The audit trail (审计): one row per changed record, in the commit; refused calls, bounded; sealed about
once a second (`seals`). Separate, because what proves must not depend on what it proves. No personal data:
residents stand in it by a sealed reference."""

import collections
import datetime
import hashlib
import threading
from typing import Any

import orjson
import sqlalchemy as sa

from mesh import lists, resources, statements
from mesh.database import Database
from mesh.tables import Plumbing
from village.mesh.v1 import audit_pb2 as pb

COLUMNS = (
    "time", "region", "actor", "deputy", "role", "organisation", "method", "name", "before_digest",
    "after_digest", "result", "purpose", "count", "request_id", "trace",
)  # fmt: skip
DONE = "OK"
"""The result of what was done; of what was refused it is the reason."""
ALIKE = 100
"""How many different refusals of one second are told apart; the rest is one row."""


def digest(row: dict[str, Any], moment: str) -> str:
    """SHA-256, in hexadecimal, over the row's columns in their fixed order; `moment` is its time as
    RFC 3339 with microseconds."""
    values = [moment if column == "time" else row[column] for column in COLUMNS]
    return hashlib.sha256(orjson.dumps(values)).hexdigest()


def finished(row: dict[str, Any], now: datetime.datetime, *, sqlite: bool) -> dict[str, Any]:
    """The row, with empty columns filled in, its time as the driver wants it, and its digest."""
    whole = dict.fromkeys(COLUMNS, "") | {"result": DONE, "count": 1} | row
    whole["time"] = resources.instant(now, sqlite=sqlite)
    whole["digest"] = digest(whole, resources.instant(now, sqlite=True))
    return whole


class Refusals:
    """Counts refused calls, alike ones together, until they are written."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: collections.Counter[tuple[tuple[str, str], ...]] = collections.Counter()
        self._more = 0

    def add(self, row: dict[str, str]) -> None:
        """Counts one; `row` holds columns of the trail."""
        key = tuple(sorted(row.items()))
        with self._lock:
            if key in self._counts or len(self._counts) < ALIKE:
                self._counts[key] += 1
            else:
                self._more += 1

    def take(self) -> list[dict[str, Any]]:
        """What was counted since the last time, as rows."""
        with self._lock:
            counts, more = self._counts, self._more
            self._counts, self._more = collections.Counter(), 0
        rows: list[dict[str, Any]] = [{**dict(key), "count": n} for key, n in counts.items()]
        return [*rows, {"result": "MANY_MORE_REFUSED", "count": more}] if more else rows


def write_refusals(database: Database, own: Plumbing, refusals: Refusals, now: datetime.datetime) -> None:
    """Writes what was refused since the last time."""
    rows = [finished(row, now, sqlite=database.sqlite) for row in refusals.take()]
    if rows:
        columns = tuple(rows[0])
        sql = database.prepare("refusals", lambda: statements.insert(own.audit, columns, "x_"))
        given = [{f"x_{k}": v for k, v in row.items()} for row in rows]
        database.transact(lambda cursor: [database.run(cursor, sql, row) for row in given] and None)


def list_audit_entries(request: pb.ListAuditEntriesRequest, call: Any) -> pb.ListAuditEntriesResponse:
    """A page of the trail of a region, in its order."""
    size, after = lists.page_size(request), lists.plain_token(call.store, request, call.method)
    trail = call.store.plumbing.audit
    asked = sa.select(trail).where(trail.c.id > after, trail.c.region == resources.region_in(request.parent))
    if request.record:
        asked = asked.where(trail.c.name == request.record)
    if request.HasField("start_time"):
        asked = asked.where(trail.c.time >= call.store.instant(resources.moment(request.start_time)))
    rows = call.select(asked.order_by(trail.c.id).limit(size + 1))
    answer = pb.ListAuditEntriesResponse(entries=[_entry(row) for row in rows[:size]])
    if len(rows) > size:
        answer.next_page_token = lists.token(call.store, call.method, request, [rows[size - 1].id])
    return answer


def _entry(row: Any) -> pb.AuditEntry:
    alike = ("actor", "deputy", "role", "organisation", "method", "before_digest", "after_digest", "result",
             "purpose", "count", "digest")  # fmt: skip
    return pb.AuditEntry(
        number=row.id, time=resources.stamp(resources.when(row.time)), record=row.name, seal=row.seal or 0,
        **{column: row._mapping[column] for column in alike},
    )  # fmt: skip


HANDLERS = {"ListAuditEntries": list_audit_entries}
