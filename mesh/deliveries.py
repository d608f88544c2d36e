"""Deferred calls (转办): a call that the province takes for an owner it cannot reach, keeps, and delivers
once. The direct attempt and every later one carry the same name and request_id, so that the owner applies one
of them, whichever arrives."""

import base64
import datetime
import json
import logging
from typing import Any

import sqlalchemy as sa

from mesh import calls, contract, database, errors, identity, links, once, resources, rpc, statuses
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


def _prepared(method: contract.Method, request: Any, now: datetime.datetime, record: str) -> str:
    """Gives a request a request_id, and, where it creates a record, a name in advance: `record` when it was
    asked for before. That name, or that of the record that it is about. What this node's contract does not
    know of it stays in it."""
    if not request.request_id:
        request.request_id = resources.uuid7(now)
    singular = _created(method)
    if not singular:
        return str(request.name)
    field = f"{contract.snake(singular)}_id"
    if not getattr(request, field):
        setattr(request, field, record.rpartition("/")[2] or resources.uuid7(now))
    plural = contract.resource(method.response).plural
    return f"{request.parent}/{plural}/{getattr(request, field)}"


def _created(method: contract.Method) -> str:
    """The kind of record that a method creates, or empty."""
    return contract.resource(method.response).singular if method.parent == "parent" else ""


class Deferral:
    """One call that may wait, made ready to be passed on now, and kept for later where that fails. Asked for
    again with its request_id it is the same call, and the same delivery. `region`: the province's."""

    def __init__(self, store: Store, region: str, endpoint: Any, asking: Any, raw: bytes) -> None:
        self._store, self._region, self._endpoint, self._asking = store, region, endpoint, asking
        request: Any = endpoint.method.request.FromString(raw)
        self._once: once.Once | None = None
        if request.request_id:
            # a key of its own: under the plain one the answer is kept, should this node become the owner
            acting = self._acting(f"deferred {request.request_id}")
            self._once = once.Once(
                store, acting, endpoint.method, request, region=region, longer=rpc.DELIVERED_KEPT,
                response=Delivery,
            )  # fmt: skip
        known = self._known()
        self.record = _prepared(endpoint.method, request, asking.now, known.record if known else "")
        self.raw: bytes = request.SerializeToString()

    def _acting(self, request_id: str = "") -> Acting:
        asking = self._asking
        return Acting(
            asking.caller,
            asking.reference,
            "DeferCall",
            asking.now,
            request_id=request_id,
            trace=asking.trace,
        )

    def _known(self) -> Any:
        """The delivery that this call became when it was asked for before, or None."""
        return self._once.answered() if self._once is not None else None

    def keep(self) -> tuple[str, Any]:
        """Keeps the call; (its delivery's name, what to answer meanwhile)."""
        known = self._known()
        if known is None:
            try:
                known = self._kept()
            except database.Taken:  # the same call was kept at the same moment
                known = self._known()
                if known is None:
                    raise
        return known.name, self._meanwhile(known.record)

    def _kept(self) -> Delivery:
        caller, internal = self._asking.caller, contract.internal("DeferCall")
        claims = {
            "iss": caller.issuer, "sub": caller.subject, "region": caller.region,
            "roles": sorted(caller.roles), "organisation": caller.organisation, "deputy": caller.deputy,
        }  # fmt: skip
        call = calls.Call(self._store, method=internal, acting=self._acting(), region=self._region)
        delivery = Delivery(
            about_region=resources.region_in(self.record), method=self._endpoint.method.path,
            record=self.record, state=Delivery.STATE_QUEUED, call_time=resources.stamp(self._asking.now),
            request=base64.b64encode(self.raw).decode(), caller=json.dumps(claims),
        )  # fmt: skip
        call.as_system(internal).create(delivery, parent=f"regions/{self._region}", event=pb.DeliveryQueued)
        told = Delivery(name=delivery.name, record=delivery.record)
        commit = call.changes.commit(*(self._once.kept(told),) if self._once is not None else ())
        assert commit is not None
        self._store.commit(commit)
        self._endpoint.published()
        return told

    def _meanwhile(self, record: str) -> Any:
        """The record as it was asked for, without a state; or, where it is there, its copy."""
        method = self._endpoint.method
        row = self._store.row(self._store.codec(method.response), record)
        if row is not None:
            return row.message
        if not _created(method):
            return method.response(name=record)
        request: Any = method.request.FromString(self.raw)
        answer: Any = getattr(request, contract.snake(_created(method)))
        answer.name = record
        return answer


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
                self._settle(name, *answer)
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

    def _try(self, delivery: Delivery, owner: str, now: datetime.datetime) -> tuple[str, str] | None:
        """(what the owner refused it with, the record that it is about now); None when it is to be tried
        again."""
        raw = base64.b64decode(delivery.request)
        proof = self._lines.directory.vouch(
            owner, json.loads(delivery.caller), resources.moment(delivery.call_time), raw, now
        )
        try:
            answer, _ = self._lines.call(owner, delivery.method, raw, {identity.VOUCHED: proof}, DIRECT_S)
        except errors.Passed as refusal:
            code = refusal.status.code
            if (
                code == errors.ALREADY_EXISTS
            ):  # an earlier attempt had arrived: the name is the delivery's own
                return "", delivery.record
            return None if code in _AGAIN else (_reason(refusal.status), delivery.record)
        except errors.Refusal:
            return None
        # the caller may have asked the owner himself meanwhile, with the same request_id
        kinds = (codec.resource for codec in self._store.codecs.values())
        cls: Any = next(kind.cls for kind in kinds if kind.pattern.match(delivery.record))
        return "", str(cls.FromString(answer).name) or delivery.record

    def _settle(self, name: str, refusal: str, record: str) -> None:
        call = calls.own(self._store, "SettleDelivery", resources.utcnow(), self._region)
        delivery = call.load(Delivery, name)
        delivery.state = Delivery.STATE_REFUSED if refusal else Delivery.STATE_APPLIED
        delivery.refusal, delivery.record, delivery.request, delivery.caller = refusal, record, "", ""
        delivery.deliver_time.CopyFrom(resources.stamp(call.now))
        call.save(delivery, pb.DeliverySettled)
        commit = call.changes.commit()
        assert commit is not None
        self._store.commit(commit)
        self._published()


def _reason(status: Any) -> str:
    return f"{statuses.reason(status)}: {status.message}"[:300]
