"""What happens by itself: limits that are missed, and due times counted again when a year's holidays are
announced. Each goes through the one commit, so that of several processes one does it, once."""

import datetime
import logging

import sqlalchemy as sa

from mesh import calls, contract, database, errors, flows, identity
from mesh.store import Store

BATCH = 200
log = logging.getLogger(__name__)


def _method(name: str) -> contract.Method:
    from google.protobuf import empty_pb2

    return contract.Method("", name, empty_pb2.Empty, empty_pb2.Empty, (), False, frozenset())


def ring(store: Store, now: datetime.datetime) -> int:
    """Lets every resource ring whose time has come; how many did."""
    count = 0
    for flow in store.flows.values():
        table = store.codec(flow.resource).table
        due = (
            sa.select(table.c.name)
            .where(table.c.alarm_time < store.instant(now))
            .order_by(table.c.alarm_time)
            .limit(BATCH)
        )
        for (name,) in store.database.select(due):
            count += _act(store, flow, name, now, flows.ESCALATE)
    return count


def recount(store: Store, now: datetime.datetime) -> int:
    """Counts provisional due times again on the store's calendar; how many changed."""
    count = 0
    for flow in store.flows.values():
        table = store.codec(flow.resource).table
        rows = store.database.select(sa.select(table.c.name).where(table.c.due_provisional == sa.true()))
        for (name,) in rows:
            count += _act(store, flow, name, now, flows.RECOUNT)
    return count


def _act(store: Store, flow: flows.Flow, name: str, now: datetime.datetime, action: str) -> bool:
    """Takes one action of the plumbing; False when somebody else was first or there is nothing to do."""
    call = calls.Call(store, method=_method(action), caller=identity.SYSTEM, reference="system", now=now)
    message = call.find(flow.resource, name)
    alarm = call.alarm(name)
    if message is None:
        return False
    around = call.around(call.policy(message))
    if action == flows.RECOUNT:
        taken = flows.recount(flow, message, store.history(name), around, alarm)
    else:
        taken = flows.ring(flow, message, around, alarm) if alarm is not None and alarm < now else None
    if taken is None:
        return False
    try:
        call.apply(message, taken)
        commit = call.commit("", "")
        assert commit is not None
        store.commit(commit)
    except (database.Moved, database.Disowned):
        return False
    except errors.Refusal as refusal:  # frozen, or the database is away: it rings again
        log.warning("a timer waits", extra={"about": {"name": name, "why": str(refusal)}})
        return False
    return True
