"""How a domain's service is, and how far its copies are: what it answers the process of its own node.
Separate from `runtime`, which opens services, and from `process`, which watches them."""

from typing import Any

from mesh import calls, errors, outbox, resources
from mesh.store import Store
from village.mesh.v1 import directory_pb2 as pb


def only_itself(call: calls.Call) -> None:
    """Forbidden for every node but this one."""
    if call.caller.region != call.services.chain.directory.region:
        raise errors.Forbidden(method=call.method.name, why="only this node itself asks for that")


def of(store: Store) -> pb.DomainService:
    """Asks the database whether it takes writes, and its disk whether there is room for them."""
    found = pb.DomainService(domain=store.domain)
    if store.cramped():
        found.trouble = "the disk of the database is full"
        return found
    try:
        store.database.transact(lambda cursor: cursor.execute("SELECT 1") and None)
        found.backlog = sum(outbox.Log(store, grant).backlog() for grant in store.grants.all())
        found.ready = True
    except errors.Refusal as refusal:
        found.trouble = str(refusal)
    return found


def copies(store: Store) -> list[pb.Copy]:
    """How far the copies are that a database holds."""
    found = []
    for row in store.cursors():
        read, high_water = row.pop("read_time"), row.pop("high_water")
        copy = pb.Copy(**row, behind=max(high_water - row["number"], 0))
        if read is not None:
            copy.as_of_time.CopyFrom(resources.stamp(resources.when(read)))
        found.append(copy)
    return found


def get_condition(_request: pb.GetConditionRequest, call: calls.Call) -> pb.GetConditionResponse:
    only_itself(call)
    return pb.GetConditionResponse(service=of(call.store), copies=copies(call.store))


HANDLERS: dict[str, Any] = {"GetCondition": get_condition}
