"""What supervisors above a county find, order and note (问题线索在线受理、任务在线交办、履职在线监管, H-1).
Clues and duty records are the supervisor's own; only the task lies with the county."""

import datetime
from typing import Any

from mesh import calls, errors, flows, records, regions, resources
from services.habitat import limits, tables
from services.habitat.figures import Figure
from village.habitat.v1 import supervision_pb2 as pb
from village.habitat.v1.limit_policy_pb2 import LimitPolicy
from village.habitat.v1.supervision_pb2 import Clue, DutyRecord, SupervisionTask
from village.type.v1 import level_pb2

LIMITS: dict[str, limits.Limits] = {
    "clues": {"file": 2, "accept": 3, "dispatch": 30},
    "supervisionTasks": {
        "issue": 2, "accept": 10, "return": 2, "reissue": 2, "report_back": 5, "send_back": 5,
    },
}  # fmt: skip
"""Working days; local values, not from a standard."""


class TaskReturnedBefore(errors.Refused):
    en = "{name} was returned once already"
    zh = "该任务已退回过一次"


class NotTheIssuer(errors.Refused):
    en = "region {issuer} issued it; it or a region above decides"
    zh = "应由交办机关或其上级处理"


# rules


def returned_once(task: SupervisionTask, _around: flows.Circumstances) -> None:
    if task.return_count > 1:
        raise TaskReturnedBefore(name=task.name)


def by_the_issuer(task: SupervisionTask, around: flows.Circumstances) -> None:
    """A city does not decide on what its province issued."""
    if not regions.contains(around.caller.region, task.issuer_region):
        raise NotTheIssuer(issuer=task.issuer_region)


def about_inside(record: Any, field: str) -> None:
    """What a supervisor writes about lies below the supervisor."""
    region = resources.region_in(record.name)
    if record.about_region == region or not regions.contains(region, record.about_region):
        raise errors.Invalid(f"{field}.about_region", "does not lie inside the supervisor's region")


def span_of(period: str) -> tuple[datetime.datetime, datetime.datetime]:
    """When a year, quarter or month of China begins, and when the next: "2026", "2026-Q1", "2026-03"."""
    year, part = int(period[:4]), period[5:]
    if part.startswith("Q"):
        first, months = 3 * int(part[1]) - 2, 3
    else:
        first, months = (int(part), 1) if part else (1, 12)
    behind = 12 * year + first - 1 + months
    bounds = ((year, first), (behind // 12, behind % 12 + 1))
    start, end = (datetime.datetime(y, m, 1, tzinfo=tables.CHINA) for y, m in bounds)
    return start, end


def count_duty(record: DutyRecord, call: calls.Call) -> None:
    """Sets a record's figures (履职监管) by the tasks that the supervisor, or one below it, issued then."""
    about_inside(record, "duty_record")
    start, end = span_of(record.period)
    if start > call.now:
        raise errors.Invalid("duty_record.period", "has not begun")
    for field, count in tables.duty(call, record, start, end).items():
        setattr(record, field, count)
    record.cut_off_time.CopyFrom(resources.stamp(min(call.now, end)))


# the flows

_C, _T = Clue.State, SupervisionTask.State
CLUE_FLOW = flows.Flow(
    resource=Clue,
    policy=LimitPolicy,
    escalate_after=limits.escalate_after,
    actions={
        "file": flows.Action(target=_C.STATE_FILED, event=pb.ClueFiled, limit=limits.after("file")),
        "accept": flows.Action(
            sources=frozenset({_C.STATE_FILED}), target=_C.STATE_ACCEPTED, event=pb.ClueAccepted,
            limit=limits.after("accept"),
        ),
        "dispatch": flows.Action(
            sources=frozenset({_C.STATE_ACCEPTED}), target=_C.STATE_DISPATCHED, event=pb.ClueDispatched,
            needs=("task",), limit=limits.after("dispatch"),
        ),
        "close": flows.Action(
            sources=frozenset({_C.STATE_ACCEPTED, _C.STATE_DISPATCHED}), target=_C.STATE_CLOSED,
            event=pb.ClueClosed,
        ),
        "reject": flows.Action(
            sources=frozenset({_C.STATE_FILED}), target=_C.STATE_REJECTED, event=pb.ClueRejected
        ),
        flows.ESCALATE: flows.Action(event=pb.ClueEscalated, keeps_clock=True),
        flows.RECOUNT: flows.Action(event=pb.ClueRecounted, keeps_clock=True),
    },
)  # fmt: skip
TASK_FLOW = flows.Flow(
    resource=SupervisionTask,
    policy=LimitPolicy,
    escalate_after=limits.escalate_after,
    actions={
        "issue": flows.Action(
            target=_T.STATE_ISSUED, event=pb.SupervisionTaskIssued, limit=limits.after("issue")
        ),
        "accept": flows.Action(
            sources=frozenset({_T.STATE_ISSUED}), target=_T.STATE_ACCEPTED,
            event=pb.SupervisionTaskAccepted, limit=limits.after("accept"),
        ),
        "return": flows.Action(
            sources=frozenset({_T.STATE_ISSUED}), target=_T.STATE_RETURNED,
            event=pb.SupervisionTaskReturned, limit=limits.after("return"), guards=(returned_once,),
        ),
        "reissue": flows.Action(
            sources=frozenset({_T.STATE_RETURNED}), target=_T.STATE_ISSUED,
            event=pb.SupervisionTaskReissued, limit=limits.after("reissue"), guards=(by_the_issuer,),
        ),
        "report_back": flows.Action(
            sources=frozenset({_T.STATE_ACCEPTED}), target=_T.STATE_REPORTED_BACK,
            event=pb.SupervisionTaskReportedBack, needs=("evidence",), limit=limits.after("report_back"),
        ),
        "verify": flows.Action(
            sources=frozenset({_T.STATE_REPORTED_BACK}), target=_T.STATE_VERIFIED,
            event=pb.SupervisionTaskVerified, guards=(by_the_issuer,),
        ),
        "send_back": flows.Action(
            sources=frozenset({_T.STATE_REPORTED_BACK}), target=_T.STATE_ACCEPTED,
            event=pb.SupervisionTaskSentBack, limit=limits.after("send_back"), guards=(by_the_issuer,),
        ),
        "urge": flows.Action(
            sources=frozenset({_T.STATE_ISSUED, _T.STATE_ACCEPTED}), event=pb.SupervisionTaskUrged,
            keeps_clock=True,
        ),
        "withdraw": flows.Action(
            sources=frozenset({_T.STATE_ISSUED, _T.STATE_ACCEPTED, _T.STATE_RETURNED}),
            target=_T.STATE_WITHDRAWN, event=pb.SupervisionTaskWithdrawn, guards=(by_the_issuer,),
        ),
        flows.ESCALATE: flows.Action(event=pb.SupervisionTaskEscalated, keeps_clock=True),
        flows.RECOUNT: flows.Action(event=pb.SupervisionTaskRecounted, keeps_clock=True),
    },
)  # fmt: skip


# clues


def file_clue(request: pb.FileClueRequest, call: calls.Call) -> Clue:
    clue = request.clue
    if clue.HasField("find_time") and resources.moment(clue.find_time) > call.now:
        raise errors.Invalid("clue.find_time", "lies in the future")
    clue.handling_level = regions.level(resources.region_in(request.parent))  # type: ignore[assignment]
    policy = limits.in_force(call, request.parent, "clues")
    filed = call.file(clue, parent=request.parent, policy=policy, wanted=request.clue_id)
    about_inside(filed, "clue")
    return filed


def accept_clue(request: pb.AcceptClueRequest, call: calls.Call) -> Clue:
    clue = call.load(Clue, request.name)
    clue.accept_time.CopyFrom(resources.stamp(call.now))
    return call.take(clue, "accept", reason=request.reason)


def dispatch_clue(request: pb.DispatchClueRequest, call: calls.Call) -> Clue:
    clue = call.load(Clue, request.name)
    if not regions.contains(clue.about_region, resources.region_in(request.task)):
        raise errors.Invalid("task", "is not one of the region that the clue is about")
    clue.task = request.task
    return call.take(clue, "dispatch", reason=request.reason)


def close_clue(request: pb.CloseClueRequest, call: calls.Call) -> Clue:
    clue = call.load(Clue, request.name)
    clue.outcome = request.outcome
    clue.close_time.CopyFrom(resources.stamp(call.now))
    return call.take(clue, "close", reason=request.reason)


def reject_clue(request: pb.RejectClueRequest, call: calls.Call) -> Clue:
    return call.take(call.load(Clue, request.name), "reject", reason=request.reason)


# tasks


def issue_supervision_task(request: pb.IssueSupervisionTaskRequest, call: calls.Call) -> SupervisionTask:
    task = request.supervision_task
    task.issuer_region, task.issuer = call.caller.region, call.reference
    task.issue_time.CopyFrom(resources.stamp(call.asked))
    task.handling_level = level_pb2.LEVEL_COUNTY
    policy = limits.in_force(call, request.parent, "supervisionTasks")
    return call.file(task, parent=request.parent, policy=policy, wanted=request.supervision_task_id)


def accept_supervision_task(request: pb.AcceptSupervisionTaskRequest, call: calls.Call) -> SupervisionTask:
    task = call.load(SupervisionTask, request.name)
    task.accept_time.CopyFrom(resources.stamp(call.now))
    return call.take(task, "accept", reason=request.reason)


def return_supervision_task(request: pb.ReturnSupervisionTaskRequest, call: calls.Call) -> SupervisionTask:
    task = call.load(SupervisionTask, request.name)
    task.return_count += 1
    return call.take(task, "return", reason=request.reason)


def reissue_supervision_task(request: pb.ReissueSupervisionTaskRequest, call: calls.Call) -> SupervisionTask:
    return call.take(call.load(SupervisionTask, request.name), "reissue", reason=request.reason)


def report_back_supervision_task(
    request: pb.ReportBackSupervisionTaskRequest, call: calls.Call
) -> SupervisionTask:
    task = call.load(SupervisionTask, request.name)
    task.handler, task.outcome = call.reference, request.outcome
    task.report_time.CopyFrom(resources.stamp(call.now))
    task.ClearField("evidence")
    task.evidence.extend(request.evidence)
    return call.take(task, "report_back", reason=request.reason)


def verify_supervision_task(request: pb.VerifySupervisionTaskRequest, call: calls.Call) -> SupervisionTask:
    task = call.load(SupervisionTask, request.name)
    task.verify_time.CopyFrom(resources.stamp(call.now))
    return call.take(task, "verify", reason=request.reason)


def send_back_supervision_task(
    request: pb.SendBackSupervisionTaskRequest, call: calls.Call
) -> SupervisionTask:
    task = call.load(SupervisionTask, request.name)
    task.rework_count += 1
    return call.take(task, "send_back", reason=request.reason)


def urge_supervision_task(request: pb.UrgeSupervisionTaskRequest, call: calls.Call) -> SupervisionTask:
    task = call.load(SupervisionTask, request.name)
    task.urge_count += 1
    return call.take(task, "urge", reason=request.reason)


def withdraw_supervision_task(
    request: pb.WithdrawSupervisionTaskRequest, call: calls.Call
) -> SupervisionTask:
    return call.take(call.load(SupervisionTask, request.name), "withdraw", reason=request.reason)


RESOURCES = (Clue, SupervisionTask, DutyRecord)
FLOWS = (CLUE_FLOW, TASK_FLOW)
FIGURES = (
    Figure(
        "H-1.1", "受理率", SupervisionTask, part="accept_time:* AND state != WITHDRAWN",
        whole="state != WITHDRAWN", time="issue_time",
    ),
    Figure(
        "H-1.2", "按期办结率", SupervisionTask, part="state = VERIFIED AND NOT late_time:*",
        whole="state = VERIFIED", time="issue_time",
    ),
    Figure(
        "H-1.3", "退回率", SupervisionTask, part="return_count > 0", whole="", time="issue_time"
    ),
)  # fmt: skip
HANDLERS = {
    **records.handlers(pb, Clue),
    **records.handlers(pb, SupervisionTask),
    **records.handlers(
        pb, DutyRecord, created=pb.DutyRecordCreated, changed=pb.DutyRecordChanged, check=count_duty
    ),
    "FileClue": file_clue,
    "AcceptClue": accept_clue,
    "DispatchClue": dispatch_clue,
    "CloseClue": close_clue,
    "RejectClue": reject_clue,
    "IssueSupervisionTask": issue_supervision_task,
    "AcceptSupervisionTask": accept_supervision_task,
    "ReturnSupervisionTask": return_supervision_task,
    "ReissueSupervisionTask": reissue_supervision_task,
    "ReportBackSupervisionTask": report_back_supervision_task,
    "VerifySupervisionTask": verify_supervision_task,
    "SendBackSupervisionTask": send_back_supervision_task,
    "UrgeSupervisionTask": urge_supervision_task,
    "WithdrawSupervisionTask": withdraw_supervision_task,
}
