"""IoT terminals, what they are bound to, and requests to speak over loudspeakers (物联网终端, 大喇叭一键喊话,
H-8). A device is trusted by the subject of its token, and only about what it is bound to."""

import datetime

from mesh import calls, errors, flows, records, regions, resources
from services.habitat import limits
from services.habitat.figures import Figure
from village.habitat.v1 import devices_pb2 as pb
from village.habitat.v1.appearance_pb2 import Spot
from village.habitat.v1.devices_pb2 import Binding, BroadcastTask, Device
from village.habitat.v1.limit_policy_pb2 import LimitPolicy
from village.habitat.v1.toilet_pb2 import Toilet
from village.habitat.v1.waste_pb2 import Bin, TransferStation, Vehicle

LIMITS: dict[str, limits.Limits] = {
    "devices": {
        "activate": datetime.timedelta(hours=24),
        "see": datetime.timedelta(hours=24),
        "mark_faulty": 3,
        "repair": 1,
    },
}
"""How long a device may be silent before it counts as off line, and working days to repair it and to put it
to use again; local values, not from a standard."""
SEEN_EVERY = datetime.timedelta(hours=1)
"""How exactly it is kept when a device was last heard from."""
TARGETS = {
    "bins": Bin, "toilets": Toilet, "vehicles": Vehicle, "transferStations": TransferStation, "spots": Spot,
}  # fmt: skip
"""What must exist before a device is bound to it; other targets are taken by name."""


class NotTheDevice(errors.Refused):
    """Only an active device reports, and only about what it is bound to."""

    en = "the caller is not {device}, or it is not in use for {target}"
    zh = "上报设备与绑定关系不符"


class DeviceStillBound(errors.Refused):
    en = "{device} is still bound to {target}"
    zh = "设备尚未解绑，不能报废"


class MoreReceiptsThanSpeakers(errors.Refused):
    en = "{receipts} receipts came of {speakers} loudspeakers"
    zh = "回执数不能多于喇叭数"


# the flows

_D, _B, _T = Device.State, Binding.State, BroadcastTask.State
_KEPT = frozenset({_D.STATE_REGISTERED, _D.STATE_ACTIVE, _D.STATE_FAULTY, _D.STATE_REPAIRED})
DEVICE_FLOW = flows.Flow(
    resource=Device,
    policy=LimitPolicy,
    escalate_after=limits.escalate_after,
    actions={
        "register": flows.Action(target=_D.STATE_REGISTERED, event=pb.DeviceRegistered),
        "activate": flows.Action(
            sources=frozenset({_D.STATE_REGISTERED, _D.STATE_REPAIRED}), target=_D.STATE_ACTIVE,
            event=pb.DeviceActivated, limit=limits.after("activate"),
        ),
        "see": flows.Action(
            sources=frozenset({_D.STATE_ACTIVE}), event=pb.DeviceSeen, limit=limits.after("see")
        ),
        "mark_faulty": flows.Action(
            sources=frozenset({_D.STATE_ACTIVE}), target=_D.STATE_FAULTY, event=pb.DeviceMarkedFaulty,
            limit=limits.after("mark_faulty"),
        ),
        "repair": flows.Action(
            sources=frozenset({_D.STATE_FAULTY}), target=_D.STATE_REPAIRED, event=pb.DeviceRepaired,
            limit=limits.after("repair"),
        ),
        "retire": flows.Action(sources=_KEPT, target=_D.STATE_RETIRED, event=pb.DeviceRetired),
        "bind": flows.Action(sources=_KEPT, event=pb.DeviceBound, keeps_clock=True),
        "unbind": flows.Action(sources=_KEPT, event=pb.DeviceUnbound, keeps_clock=True),
        flows.ESCALATE: flows.Action(event=pb.DeviceEscalated, keeps_clock=True),
        flows.RECOUNT: flows.Action(event=pb.DeviceRecounted, keeps_clock=True),
    },
)  # fmt: skip
BINDING_FLOW = flows.Flow(
    resource=Binding,
    actions={
        "create": flows.Action(target=_B.STATE_IN_FORCE, event=pb.BindingCreated),
        "end": flows.Action(
            sources=frozenset({_B.STATE_IN_FORCE}), target=_B.STATE_ENDED, event=pb.BindingEnded
        ),
    },
)
BROADCAST_FLOW = flows.Flow(
    resource=BroadcastTask,
    actions={
        "draft": flows.Action(target=_T.STATE_DRAFTED, event=pb.BroadcastTaskDrafted),
        "approve": flows.Action(
            sources=frozenset({_T.STATE_DRAFTED}), target=_T.STATE_APPROVED, event=pb.BroadcastTaskApproved
        ),
        "request": flows.Action(
            sources=frozenset({_T.STATE_APPROVED}), target=_T.STATE_REQUESTED,
            event=pb.BroadcastTaskRequested,
        ),
        "finish": flows.Action(
            sources=frozenset({_T.STATE_REQUESTED}), target=_T.STATE_DONE, event=pb.BroadcastTaskFinished
        ),
        "fail": flows.Action(
            sources=frozenset({_T.STATE_REQUESTED}), target=_T.STATE_FAILED, event=pb.BroadcastTaskFailed
        ),
        "cancel": flows.Action(
            sources=frozenset({_T.STATE_DRAFTED, _T.STATE_APPROVED}), target=_T.STATE_CANCELLED,
            event=pb.BroadcastTaskCancelled,
        ),
    },
)  # fmt: skip


# rules


def reporting(call: calls.Call, name: str, target: str) -> Device:
    """The device that calls, if it is in use for that target."""
    device = call.find(Device, name)
    known = device is not None and device.subject == call.caller.subject
    if device is None or not known or device.target != target or device.state != _D.STATE_ACTIVE:
        raise NotTheDevice(device=name, target=target)
    return device


def _target_exists(call: calls.Call, target: str, parent: str) -> bool:
    if resources.region_in(target) != resources.region_in(parent):
        return False
    of = TARGETS.get(target.split("/")[2])
    return of is None or call.find(of, target) is not None


# handlers


def register_device(request: pb.RegisterDeviceRequest, call: calls.Call) -> Device:
    policy = limits.in_force(call, request.parent, "devices")
    return call.file(request.device, parent=request.parent, policy=policy, wanted=request.device_id)


def activate_device(request: pb.ActivateDeviceRequest, call: calls.Call) -> Device:
    device = call.load(Device, request.name)
    device.last_seen_time.CopyFrom(resources.stamp(call.now))
    return call.take(device, "activate", reason=request.reason)


def see_device(request: pb.SeeDeviceRequest, call: calls.Call) -> Device:
    device = call.load(Device, request.name)
    if device.subject != call.caller.subject:
        raise NotTheDevice(device=device.name, target=device.target)
    recent = call.now - resources.moment(device.last_seen_time) < SEEN_EVERY
    if recent and not device.overdue and device.state == _D.STATE_ACTIVE:
        return device
    device.last_seen_time.CopyFrom(resources.stamp(call.now))
    device.ClearField("escalation_level")
    return call.take(device, "see", reason=request.reason)


def mark_device_faulty(request: pb.MarkDeviceFaultyRequest, call: calls.Call) -> Device:
    device = call.load(Device, request.name)
    device.fault_time.CopyFrom(resources.stamp(call.now))
    return call.take(device, "mark_faulty", reason=request.reason)


def repair_device(request: pb.RepairDeviceRequest, call: calls.Call) -> Device:
    device = call.load(Device, request.name)
    device.repair_hours += (call.now - resources.moment(device.fault_time)).total_seconds() / 3600
    device.repair_count += 1
    return call.take(device, "repair", reason=request.reason)


def retire_device(request: pb.RetireDeviceRequest, call: calls.Call) -> Device:
    device = call.load(Device, request.name)
    if device.target:
        raise DeviceStillBound(device=device.name, target=device.target)
    return call.take(device, "retire", reason=request.reason)


def create_binding(request: pb.CreateBindingRequest, call: calls.Call) -> Binding:
    binding, parent = request.binding, request.parent
    device = call.find(Device, binding.device)
    if device is None or resources.region_in(device.name) != resources.region_in(parent):
        raise errors.Invalid("binding.device", "is not a device of that region")
    if not _target_exists(call, binding.target, parent):
        raise errors.Invalid("binding.target", "does not exist in that region")
    device = call.load(Device, device.name)
    if device.target:
        raise DeviceStillBound(device=device.name, target=device.target)
    binding.division = device.division
    binding.start_time.CopyFrom(resources.stamp(call.now))
    binding.device_slot, binding.target_slot = device.name, f"{binding.target}:{device.kind}"
    device.target = binding.target
    call.take(device, "bind")
    return call.file(binding, parent=parent, wanted=request.binding_id)


def end_binding(request: pb.EndBindingRequest, call: calls.Call) -> Binding:
    binding = call.load(Binding, request.name)
    binding.end_time.CopyFrom(resources.stamp(call.now))
    binding.device_slot = binding.target_slot = binding.name
    ended = call.take(binding, "end", reason=request.reason)
    device = call.within(call.method).load(Device, binding.device)
    device.ClearField("target")
    call.take(device, "unbind")
    return ended


def draft_broadcast_task(request: pb.DraftBroadcastTaskRequest, call: calls.Call) -> BroadcastTask:
    task = request.broadcast_task
    if any(not regions.contains(task.division, zone) for zone in task.zones):
        raise errors.Invalid("broadcast_task.zones", "does not lie inside the division")
    task.drafter = call.reference
    return call.file(task, parent=request.parent, wanted=request.broadcast_task_id)


def approve_broadcast_task(request: pb.ApproveBroadcastTaskRequest, call: calls.Call) -> BroadcastTask:
    task = call.load(BroadcastTask, request.name)
    task.approver = call.reference
    return call.take(task, "approve", reason=request.reason)


def request_broadcast_task(request: pb.RequestBroadcastTaskRequest, call: calls.Call) -> BroadcastTask:
    task = call.load(BroadcastTask, request.name)
    task.request_time.CopyFrom(resources.stamp(call.now))
    return call.take(task, "request", reason=request.reason)


def finish_broadcast_task(request: pb.FinishBroadcastTaskRequest, call: calls.Call) -> BroadcastTask:
    task = call.load(BroadcastTask, request.name)
    task.speaker_count, task.receipt_count = request.speaker_count, request.receipt_count
    if task.receipt_count > task.speaker_count:
        raise MoreReceiptsThanSpeakers(receipts=str(task.receipt_count), speakers=str(task.speaker_count))
    return call.take(task, "finish", reason=request.reason)


def fail_broadcast_task(request: pb.FailBroadcastTaskRequest, call: calls.Call) -> BroadcastTask:
    return call.take(call.load(BroadcastTask, request.name), "fail", reason=request.reason)


def cancel_broadcast_task(request: pb.CancelBroadcastTaskRequest, call: calls.Call) -> BroadcastTask:
    return call.take(call.load(BroadcastTask, request.name), "cancel", reason=request.reason)


RESOURCES = (Device, Binding, BroadcastTask)
FLOWS = (DEVICE_FLOW, BINDING_FLOW, BROADCAST_FLOW)
FIGURES = (
    Figure(
        "H-8.1", "在线率", Device, part="state = ACTIVE AND overdue = false",
        whole="state = ACTIVE OR state = FAULTY",
    ),
    Figure(
        "H-8.2", "广播回执率", BroadcastTask, part="state = DONE", whole="state = DONE",
        part_sum="receipt_count", whole_sum="speaker_count",
    ),
    Figure("H-8.3", "平均修复时间", Device, part_sum="repair_hours", whole_sum="repair_count", unit="h"),
)  # fmt: skip
HANDLERS = {
    **records.handlers(pb, Device),
    **records.handlers(pb, Binding),
    **records.handlers(pb, BroadcastTask),
    "RegisterDevice": register_device,
    "ActivateDevice": activate_device,
    "SeeDevice": see_device,
    "MarkDeviceFaulty": mark_device_faulty,
    "RepairDevice": repair_device,
    "RetireDevice": retire_device,
    "CreateBinding": create_binding,
    "EndBinding": end_binding,
    "DraftBroadcastTask": draft_broadcast_task,
    "ApproveBroadcastTask": approve_broadcast_task,
    "RequestBroadcastTask": request_broadcast_task,
    "FinishBroadcastTask": finish_broadcast_task,
    "FailBroadcastTask": fail_broadcast_task,
    "CancelBroadcastTask": cancel_broadcast_task,
}
