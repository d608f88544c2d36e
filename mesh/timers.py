"""What happens by itself: limits that are missed, and due times counted again when a year's holidays are
announced. Each goes through the one commit, so that of several processes one does it, once."""

import datetime
import functools
import logging
from typing import Any

import sqlalchemy as sa

from mesh import calls, database, errors, flows, tables
from mesh.store import Store

BATCH = 200
log = logging.getLogger(__name__)


def ring(store: Store, now: datetime.datetime) -> int:
    """Lets every resource ring whose time has come; how many did."""
    count = 0
    for flow in _timed(store):
        table = store.codec(flow.resource).table
        sql = store.database.prepare(("ring", table.name), functools.partial(_ringing, table))
        for (name,) in store.database.fetch(sql, {"now": store.instant(now)}):
            count += _act(store, flow, name, now, flows.ESCALATE)
    return count


def _ringing(table: sa.Table) -> Any:
    """The records whose time has come, the longest due first."""
    due = sa.select(table.c.name).where(table.c.alarm_time < sa.bindparam("now", type_=tables.INSTANT))
    ordered = due.order_by(table.c.alarm_time).limit(sa.literal_column(str(BATCH)))
    return ordered.offset(sa.literal_column("0"))  # else SQLite adds a parameter of its own


def recount(store: Store, now: datetime.datetime) -> int:
    """Counts provisional due times again on the store's calendar; how many changed."""
    count = 0
    for flow in _timed(store):
        table = store.codec(flow.resource).table
        rows = store.database.select(sa.select(table.c.name).where(sa.text("due_provisional IS TRUE")))
        for (name,) in rows:
            count += _act(store, flow, name, now, flows.RECOUNT)
    return count


def _timed(store: Store) -> list[flows.Flow]:
    return [flow for flow in store.flows.values() if flow.policy is not None]


def _act(store: Store, flow: flows.Flow, name: str, now: datetime.datetime, action: str) -> bool:
    """Takes one action of the plumbing; False when somebody else was first or there is nothing to do."""
    call = calls.own(store, action, now)
    message = call.find(flow.resource, name)
    if message is None:
        return False
    held, around = call.changes.held[name], call.around(call.policy(message), name)
    if action == flows.RECOUNT:
        taken = flows.recount(flow, message, around, held.alarm)
    else:
        rings = held.alarm is not None and held.alarm < now
        taken = flows.ring(flow, message, around, held.alarm) if rings else None  # type: ignore[arg-type]
    if taken is None:
        return False
    try:
        call.changes.take(held, taken, "", {})
        store.commit(call.changes.commit())  # type: ignore[arg-type]
    except (database.Moved, database.Disowned):
        return False
    except errors.Refusal as refusal:  # frozen, or the database is away: it rings again
        log.warning("a timer waits", extra={"about": {"name": name, "why": str(refusal)}})
        return False
    return True
