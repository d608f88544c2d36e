"""Public toilets and the orders by which they are kept usable (厕所革命, H-7; orders by SM-0)."""

from mesh import calls, errors, flows, records, regions, resources
from services.habitat import figures, limits, one_map
from village.habitat.v1 import toilet_pb2 as pb
from village.habitat.v1.limit_policy_pb2 import LimitPolicy
from village.habitat.v1.toilet_pb2 import ServiceOrder, Toilet

LIMITS: dict[str, limits.Limits] = {
    "serviceOrders": {"file": 1, "assign": 3, "finish": 2, "verify": 1, "send_back": 3},
}
"""Working days; local values, not from a standard."""

_S = ServiceOrder.State
FLOW = flows.Flow(
    resource=ServiceOrder,
    policy=LimitPolicy,
    escalate_after=limits.escalate_after,
    actions={
        "file": flows.Action(
            target=_S.STATE_FILED, event=pb.ServiceOrderFiled, limit=limits.after("file")
        ),
        "assign": flows.Action(
            sources=frozenset({_S.STATE_FILED}), target=_S.STATE_ASSIGNED, event=pb.ServiceOrderAssigned,
            limit=limits.after("assign"),
        ),
        "start": flows.Action(
            sources=frozenset({_S.STATE_ASSIGNED}), target=_S.STATE_IN_PROGRESS,
            event=pb.ServiceOrderStarted, keeps_clock=True,
        ),
        "finish": flows.Action(
            sources=frozenset({_S.STATE_IN_PROGRESS}), target=_S.STATE_FINISHED,
            event=pb.ServiceOrderFinished, needs=("evidence",), limit=limits.after("finish"),
        ),
        "verify": flows.Action(
            sources=frozenset({_S.STATE_FINISHED}), target=_S.STATE_VERIFIED, event=pb.ServiceOrderVerified,
            limit=limits.after("verify"),
        ),
        "send_back": flows.Action(
            sources=frozenset({_S.STATE_FINISHED}), target=_S.STATE_IN_PROGRESS,
            event=pb.ServiceOrderSentBack, limit=limits.after("send_back"),
        ),
        "close": flows.Action(
            sources=frozenset({_S.STATE_VERIFIED}), target=_S.STATE_CLOSED, event=pb.ServiceOrderClosed
        ),
        "cancel": flows.Action(
            sources=frozenset({_S.STATE_FILED, _S.STATE_ASSIGNED}), target=_S.STATE_CANCELLED,
            event=pb.ServiceOrderCancelled,
        ),
        flows.ESCALATE: flows.Action(event=pb.ServiceOrderEscalated, keeps_clock=True),
        flows.RECOUNT: flows.Action(event=pb.ServiceOrderRecounted, keeps_clock=True),
    },
)  # fmt: skip


def file_service_order(request: pb.FileServiceOrderRequest, call: calls.Call) -> ServiceOrder:
    order = request.service_order
    toilet = call.find(Toilet, order.toilet)
    if toilet is None or resources.region_in(order.toilet) != resources.region_in(request.parent):
        raise errors.Invalid("service_order.toilet", "is not a toilet of that region")
    order.division = toilet.division
    order.file_time.CopyFrom(resources.stamp(call.now))
    policy = limits.in_force(call, request.parent, "serviceOrders")
    return call.file(order, parent=request.parent, policy=policy, wanted=request.service_order_id)


def assign_service_order(request: pb.AssignServiceOrderRequest, call: calls.Call) -> ServiceOrder:
    if not regions.uscc_valid(request.unit):
        raise errors.Invalid("unit", "has a wrong check character (GB 32100-2015)")
    order = call.load(ServiceOrder, request.name)
    order.handling_level, order.handling_unit = request.level, request.unit
    return call.take(order, "assign", reason=request.reason, level=request.level, unit=request.unit)


def start_service_order(request: pb.StartServiceOrderRequest, call: calls.Call) -> ServiceOrder:
    return call.take(call.load(ServiceOrder, request.name), "start", reason=request.reason)


def finish_service_order(request: pb.FinishServiceOrderRequest, call: calls.Call) -> ServiceOrder:
    order = call.load(ServiceOrder, request.name)
    if request.emptied_m3 and order.kind != ServiceOrder.KIND_EMPTYING:
        raise errors.Invalid("emptied_m3", "is stated of emptying only")
    order.emptied_m3, order.handler = request.emptied_m3, call.reference
    order.finish_time.CopyFrom(resources.stamp(call.now))
    order.repair_hours = (call.now - resources.moment(order.file_time)).total_seconds() / 3600
    order.ClearField("evidence")
    order.evidence.extend(request.evidence)
    return call.take(order, "finish", reason=request.reason)


def verify_service_order(request: pb.VerifyServiceOrderRequest, call: calls.Call) -> ServiceOrder:
    return call.take(call.load(ServiceOrder, request.name), "verify", reason=request.reason)


def send_back_service_order(request: pb.SendBackServiceOrderRequest, call: calls.Call) -> ServiceOrder:
    return call.take(call.load(ServiceOrder, request.name), "send_back", reason=request.reason)


def close_service_order(request: pb.CloseServiceOrderRequest, call: calls.Call) -> ServiceOrder:
    order = call.load(ServiceOrder, request.name)
    order.close_time.CopyFrom(resources.stamp(call.now))
    return call.take(order, "close", reason=request.reason)


def cancel_service_order(request: pb.CancelServiceOrderRequest, call: calls.Call) -> ServiceOrder:
    return call.take(call.load(ServiceOrder, request.name), "cancel", reason=request.reason)


FIGURES = (
    figures.Figure("H-7.1", "完好率", Toilet, part="condition = GOOD"),
    figures.Figure(
        "H-7.2", "平均维修时长", ServiceOrder, part="kind = REPAIR", part_sum="repair_hours",
        whole="kind = REPAIR AND finish_time:*", unit="h",
    ),
)  # fmt: skip
LAYERS = (one_map.Layer(Toilet, "公厕", state="condition", public=True),)
RESOURCES = (Toilet, ServiceOrder)
FLOWS = (FLOW,)
HANDLERS = {
    **records.handlers(pb, Toilet, created=pb.ToiletCreated, changed=pb.ToiletChanged),
    **records.handlers(pb, ServiceOrder),
    "FileServiceOrder": file_service_order,
    "AssignServiceOrder": assign_service_order,
    "StartServiceOrder": start_service_order,
    "FinishServiceOrder": finish_service_order,
    "VerifyServiceOrder": verify_service_order,
    "SendBackServiceOrder": send_back_service_order,
    "CloseServiceOrder": close_service_order,
    "CancelServiceOrder": cancel_service_order,
}
