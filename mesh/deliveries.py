"""Deferred calls (转办): a call that the province takes for an owner it cannot reach, keeps, and delivers
once. The direct attempt and every later one carry the same name and request_id, so that the owner applies one
of them, whichever arrives."""

import base64
import datetime
import json
import logging
from typing import Any

import sqlalchemy as sa

from mesh import calls, contract, errors, identity, links, resources, statuses
from mesh.changes import Acting
from mesh.store import Store
from village.mesh.v1 import delivery_pb2 as pb
from village.mesh.v1.delivery_pb2 import Delivery

HEADER = "x-village-delivery"
"""Names the delivery in the answer to a call that was deferred."""
DIRECT_S = 5.0
"""How long the owner is waited for before a call is deferred."""
BATCH = 50
_AGAIN = (errors.UNAVAILABLE, errors.RESOURCE_EXHAUSTED, errors.ABORTED, errors.DEADLINE_EXCEEDED)
log = logging.getLogger(__name__)


def get_delivery(request: pb.GetDeliveryRequest, call: calls.Call) -> Delivery:
    return _told(call.load(Delivery, request.name))


def list_deliveries(request: pb.ListDeliveriesRequest, call: calls.Call) -> pb.ListDeliveriesResponse:
    page = call.page(Delivery, request, pb.ListDeliveriesResponse)
    for delivery in page.deliveries:
        _told(delivery)
    return page


def _told(delivery: Delivery) -> Delivery:
    delivery.request = delivery.caller = ""
    return delivery


HANDLERS: dict[str, Any] = {"GetDelivery": get_delivery, "ListDeliveries": list_deliveries}


def prepared(method: contract.Method, raw: bytes, now: datetime.datetime) -> tuple[bytes, str]:
    """The request with a request_id, and, where it creates a record, a name given in advance; and that name,
    or that of the record that it is about. What this node's contract does not know of it stays in it."""
    request: Any = method.request.FromString(raw)
    if not request.request_id:
        request.request_id = resources.uuid7(now)
    singular = _created(method)
    if not singular:
        return request.SerializeToString(), request.name
    field = f"{contract.snake(singular)}_id"
    if not getattr(request, field):
        setattr(request, field, resources.uuid7(now))
    plural = contract.resource(method.response).plural
    return request.SerializeToString(), f"{request.parent}/{plural}/{getattr(request, field)}"


def _created(method: contract.Method) -> str:
    """The kind of record that a method creates, or empty."""
    return contract.resource(method.response).singular if method.parent == "parent" else ""


def defer(
    store: Store, region: str, endpoint: Any, asking: Any, *, raw: bytes, record: str
) -> tuple[str, Any]:
    """Keeps a call for later; (its delivery's name, what to answer meanwhile). `region`: the province's."""
    caller = asking.caller
    claims = {
        "iss": caller.issuer, "sub": caller.subject, "region": caller.region, "roles": sorted(caller.roles),
        "organisation": caller.organisation, "deputy": caller.deputy,
    }  # fmt: skip
    method = endpoint.method
    internal = contract.internal("DeferCall")
    acting = Acting(caller, asking.reference, "DeferCall", asking.now, trace=asking.trace)
    call = calls.Call(store, method=internal, acting=acting, region=region).as_system(internal)
    delivery = Delivery(
        about_region=resources.region_in(record), method=method.path, record=record,
        state=Delivery.STATE_QUEUED,
        call_time=resources.stamp(asking.now), request=base64.b64encode(raw).decode(),
        caller=json.dumps(claims),
    )  # fmt: skip
    call.create(delivery, parent=f"regions/{region}", event=pb.DeliveryQueued)
    commit = call.changes.commit()
    assert commit is not None
    store.commit(commit)
    endpoint.published()
    return delivery.name, _meanwhile(store, method, raw, record)


def _meanwhile(store: Store, method: contract.Method, raw: bytes, record: str) -> Any:
    """The record as it was asked for, without a state; or, where it is there, its copy."""
    if _created(method):
        request: Any = method.request.FromString(raw)
        answer: Any = getattr(request, contract.snake(_created(method)))
        answer.name = record
        return answer
    row = store.row(store.codec(method.response), record)
    return row.message if row is not None else method.response(name=record)  # type: ignore[call-arg]


class Deliverer:
    """Delivers what waits in one domain's store."""

    def __init__(self, store: Store, lines: links.Links, region: str, published: Any) -> None:
        self._store, self._lines, self._region, self._published = store, lines, region, published

    def deliver(self, now: datetime.datetime) -> int:
        """Tries what waits, in the order in which it was asked for, each owner until it cannot be reached;
        how many were settled."""
        view, away, settled = self._lines.directory.view, set[str](), 0
        for name in self._waiting():
            row = self._store.row(self._store.codec(Delivery), name)
            if row is None or row.message.state != Delivery.STATE_QUEUED:
                continue
            delivery = row.message
            owner = view.owner(delivery.about_region, self._store.domain)
            if not owner or owner in away:
                continue
            answer = self._try(delivery, owner, now)
            if answer is None:
                away.add(owner)
            else:
                self._settle(name, answer)
                settled += 1
        return settled

    def _waiting(self) -> list[str]:
        codec = self._store.codec(Delivery)
        c = codec.table.c
        sql = self._store.database.prepare(
            "deliveries",
            lambda: (
                sa.select(c.name)
                .where(c.state == sa.bindparam("state", type_=c.state.type))
                .order_by(c.name)
                .limit(sa.bindparam("most", type_=sa.Integer))
                .offset(sa.literal_column("0"))
            ),
        )
        return [n for (n,) in self._store.database.fetch(sql, {"state": "QUEUED", "most": BATCH})]

    def _try(self, delivery: Delivery, owner: str, now: datetime.datetime) -> str | None:
        """What the owner refused it with, empty when it was done; None when it is to be tried again."""
        raw = base64.b64decode(delivery.request)
        proof = self._lines.directory.vouch(
            owner, json.loads(delivery.caller), resources.moment(delivery.call_time), raw, now
        )
        try:
            self._lines.call(owner, delivery.method, raw, {identity.VOUCHED: proof}, DIRECT_S)
        except errors.Passed as refusal:
            code = refusal.status.code
            if (
                code == errors.ALREADY_EXISTS
            ):  # an earlier attempt had arrived: the name is the delivery's own
                return ""
            return None if code in _AGAIN else _reason(refusal.status)
        except errors.Refusal:
            return None
        return ""

    def _settle(self, name: str, refusal: str) -> None:
        call = calls.own(self._store, "SettleDelivery", resources.utcnow(), self._region)
        delivery = call.load(Delivery, name)
        delivery.state = Delivery.STATE_REFUSED if refusal else Delivery.STATE_APPLIED
        delivery.refusal, delivery.request, delivery.caller = refusal, "", ""
        delivery.deliver_time.CopyFrom(resources.stamp(call.now))
        call.save(delivery, pb.DeliverySettled)
        commit = call.changes.commit()
        assert commit is not None
        self._store.commit(commit)
        self._published()


def _reason(status: Any) -> str:
    return f"{statuses.reason(status)}: {status.message}"[:300]
