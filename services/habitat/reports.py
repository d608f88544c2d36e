"""Public reports on the living environment (举报板块, H-9) and their loop 上报、整改、监督、反馈、考核 (H-1,
lifecycle SM-0)."""

import datetime
from typing import Any

from mesh import batches, calls, errors, flows, regions, resources
from services.habitat import figures, tables
from village.habitat.v1 import events_pb2 as events
from village.habitat.v1 import report_pb2 as pb
from village.habitat.v1.report_pb2 import Report
from village.habitat.v1.report_policy_pb2 import ReportPolicy
from village.type.v1 import level_pb2

CLOCK_SKEW = datetime.timedelta(seconds=30)
"""How far a reporter's clock may run ahead of ours."""

# refusals


class VerifiedByOwnUnit(errors.Refused):
    en = "what a village handled is verified by its town or county, not by unit {unit} itself"
    zh = "村级办理的事项应由乡镇或县级核查"


class ReturnAlreadyUsed(errors.Refused):
    en = "{name} was returned once already"
    zh = "该上报件已退回过一次"


class ReturnTooLate(errors.Refused):
    en = "the time to return it ended at {until}"
    zh = "已超过退回时限"


class DisputeAlreadyUsed(errors.Refused):
    en = "the outcome of {name} was disputed once already"
    zh = "该上报件已申诉过一次"


class DisputeTooLate(errors.Refused):
    en = "the time to dispute the outcome ended at {until}"
    zh = "已超过申诉时限"


class DisputeStillPossible(errors.Refused):
    en = "the reporter may dispute the outcome until {until}; it is closed after that"
    zh = "申诉期未满，暂不能结案"


class DuplicateOfItself(errors.Refused):
    en = "{name} does not repeat itself"
    zh = "不能将上报件标记为自身的重复件"


class OriginalIsDuplicate(errors.Refused):
    en = "the original named is itself a duplicate, of {original}"
    zh = "所指原件本身为重复件"


class NoPolicyInForce(errors.Refused):
    en = "region {region} has no policy in force"
    zh = "该地区尚无生效的时限规定"


# rules


def town_or_county_verifies(report: Report, around: flows.Circumstances) -> None:
    """Three village cadres cannot verify each other."""
    village = report.handling_level == level_pb2.LEVEL_VILLAGE
    if village and around.caller.organisation == report.handling_unit:
        raise VerifiedByOwnUnit(unit=report.handling_unit)


def returned_once(report: Report, around: flows.Circumstances) -> None:
    if report.return_count > 1:
        raise ReturnAlreadyUsed(name=report.name)
    until, _ = around.calendar.due(resources.moment(report.assign_time), around.policy.return_working_days)
    if around.now > until:
        raise ReturnTooLate(until=until.isoformat())


def disputed_once(report: Report, around: flows.Circumstances) -> None:
    if report.dispute_count > 1:
        raise DisputeAlreadyUsed(name=report.name)
    until, _ = around.calendar.due(resources.moment(report.feedback_time), around.policy.dispute_working_days)
    if around.now > until:
        raise DisputeTooLate(until=until.isoformat())


def dispute_over(report: Report, around: flows.Circumstances) -> None:
    """A closed report is not disputed, so closing waits until the reporter had his days, or has used them."""
    until, _ = around.calendar.due(resources.moment(report.feedback_time), around.policy.dispute_working_days)
    if not report.dispute_count and around.now <= until:
        raise DisputeStillPossible(until=until.isoformat())


def rectify_limit(policy: ReportPolicy, report: Report) -> int:
    """Working days for the level that handles it; the next lower level's where the policy names none."""
    stated = {limit.level: limit.working_days for limit in policy.rectify_limits}
    return stated[max(level for level in stated if level <= report.handling_level)]


def closing_limit(policy: ReportPolicy, report: Report) -> int:
    """As long as for feedback, from when the reporter can no longer dispute."""
    waiting = 0 if report.dispute_count else policy.dispute_working_days
    return int(waiting + policy.feedback_working_days)


# the flow

_S = Report.State
FLOW = flows.Flow(
    resource=Report,
    policy=ReportPolicy,
    escalate_after=lambda policy: int(policy.escalate_working_days),
    actions={
        "file": flows.Action(
            target=_S.STATE_REPORTED,
            event=events.ReportFiled,
            limit=lambda policy, _: int(policy.accept_working_days),
        ),
        "accept": flows.Action(
            sources=frozenset({_S.STATE_REPORTED}),
            target=_S.STATE_ACCEPTED,
            event=events.ReportAccepted,
            limit=lambda policy, _: int(policy.assign_working_days),
        ),
        "reject": flows.Action(
            sources=frozenset({_S.STATE_REPORTED}), target=_S.STATE_REJECTED, event=events.ReportRejected
        ),
        "mark_duplicate": flows.Action(
            sources=frozenset({_S.STATE_REPORTED}),
            target=_S.STATE_DUPLICATE,
            event=events.ReportMarkedDuplicate,
        ),
        "assign": flows.Action(
            sources=frozenset({_S.STATE_ACCEPTED, _S.STATE_RETURNED}),
            target=_S.STATE_ASSIGNED,
            event=events.ReportAssigned,
            limit=rectify_limit,
        ),
        "return": flows.Action(
            sources=frozenset({_S.STATE_ASSIGNED}),
            target=_S.STATE_RETURNED,
            event=events.ReportReturned,
            limit=lambda policy, _: int(policy.assign_working_days),
            guards=(returned_once,),
        ),
        "start": flows.Action(
            sources=frozenset({_S.STATE_ASSIGNED}),
            target=_S.STATE_IN_PROGRESS,
            event=events.ReportStarted,
            keeps_clock=True,
        ),
        "rectify": flows.Action(
            sources=frozenset({_S.STATE_IN_PROGRESS}),
            target=_S.STATE_RECTIFIED,
            event=events.ReportRectified,
            limit=lambda policy, _: int(policy.verify_working_days),
        ),
        "verify": flows.Action(
            sources=frozenset({_S.STATE_RECTIFIED}),
            target=_S.STATE_VERIFIED,
            event=events.ReportVerified,
            limit=lambda policy, _: int(policy.feedback_working_days),
            guards=(town_or_county_verifies,),
        ),
        "send_back": flows.Action(
            sources=frozenset({_S.STATE_RECTIFIED}),
            target=_S.STATE_IN_PROGRESS,
            event=events.ReportSentBack,
            limit=rectify_limit,
            guards=(town_or_county_verifies,),
        ),
        "send_feedback": flows.Action(
            sources=frozenset({_S.STATE_VERIFIED}),
            target=_S.STATE_FEEDBACK_SENT,
            event=events.ReportFeedbackSent,
            limit=closing_limit,
        ),
        "dispute": flows.Action(
            sources=frozenset({_S.STATE_FEEDBACK_SENT}),
            target=_S.STATE_IN_PROGRESS,
            event=events.ReportDisputed,
            limit=rectify_limit,
            guards=(disputed_once,),
        ),
        "close": flows.Action(
            sources=frozenset({_S.STATE_FEEDBACK_SENT}),
            target=_S.STATE_CLOSED,
            event=events.ReportClosed,
            guards=(dispute_over,),
        ),
        "assess": flows.Action(
            sources=frozenset({_S.STATE_CLOSED}), target=_S.STATE_ASSESSED, event=events.ReportAssessed
        ),
        "withdraw": flows.Action(
            sources=frozenset(
                {
                    _S.STATE_REPORTED,
                    _S.STATE_ACCEPTED,
                    _S.STATE_ASSIGNED,
                    _S.STATE_RETURNED,
                    _S.STATE_IN_PROGRESS,
                }
            ),
            target=_S.STATE_WITHDRAWN,
            event=events.ReportWithdrawn,
        ),
        flows.ESCALATE: flows.Action(event=events.ReportEscalated, keeps_clock=True),
        flows.RECOUNT: flows.Action(event=events.ReportRecounted, keeps_clock=True),
    },
)


# handlers


def file_report(request: pb.FileReportRequest, call: calls.Call) -> Report:
    report = request.report
    if report.HasField("observe_time") and resources.moment(report.observe_time) > call.now + CLOCK_SKEW:
        raise errors.Invalid("report.observe_time", "lies in the future")
    region = regions.region_of(resources.region_in(request.parent))
    name = tables.policy_in_force(call, region, call.now)
    if not name:
        raise NoPolicyInForce(region=region)
    report.file_time.CopyFrom(resources.stamp(call.now))
    return call.file(report, parent=request.parent, policy=call.store.policy(ReportPolicy, name))


def get_report(request: pb.GetReportRequest, call: calls.Call) -> Report:
    return call.load(Report, request.name)


def list_reports(request: pb.ListReportsRequest, call: calls.Call) -> pb.ListReportsResponse:
    return call.page(Report, request, pb.ListReportsResponse)


def list_report_steps(request: pb.ListReportStepsRequest, call: calls.Call) -> pb.ListReportStepsResponse:
    call.load(Report, request.parent)
    return call.history(request, pb.ListReportStepsResponse)


def accept_report(request: pb.AcceptReportRequest, call: calls.Call) -> Report:
    report = call.load(Report, request.name)
    report.accept_time.CopyFrom(resources.stamp(call.now))
    return call.take(report, "accept", reason=request.reason)


def reject_report(request: pb.RejectReportRequest, call: calls.Call) -> Report:
    return call.take(call.load(Report, request.name), "reject", reason=request.reason)


def mark_report_duplicate(request: pb.MarkReportDuplicateRequest, call: calls.Call) -> Report:
    report = call.load(Report, request.name)
    if request.duplicate_of == report.name:
        raise DuplicateOfItself(name=report.name)
    original = None
    if resources.region_in(request.duplicate_of) == resources.region_in(report.name):
        original = call.find(Report, request.duplicate_of)
    if original is None:
        raise errors.Invalid("duplicate_of", "is not a report of the same county")
    if original.state == _S.STATE_DUPLICATE:
        raise OriginalIsDuplicate(original=original.duplicate_of)
    call.rely_on(original)
    report.duplicate_of = original.name
    return call.take(report, "mark_duplicate", reason=request.reason)


def assign_report(request: pb.AssignReportRequest, call: calls.Call) -> Report:
    if not regions.uscc_valid(request.unit):
        raise errors.Invalid("unit", "has a wrong check character (GB 32100-2015)")
    report = call.load(Report, request.name)
    report.handling_level, report.handling_unit = request.level, request.unit
    report.handling_unit_title = request.unit_title
    report.assign_time.CopyFrom(resources.stamp(call.now))
    return call.take(report, "assign", reason=request.reason, level=request.level, unit=request.unit)


def return_report(request: pb.ReturnReportRequest, call: calls.Call) -> Report:
    report = call.load(Report, request.name)
    report.return_count += 1
    return call.take(report, "return", reason=request.reason)


def start_report(request: pb.StartReportRequest, call: calls.Call) -> Report:
    return call.take(call.load(Report, request.name), "start", reason=request.reason)


def rectify_report(request: pb.RectifyReportRequest, call: calls.Call) -> Report:
    report = call.load(Report, request.name)
    report.rectify_time.CopyFrom(resources.stamp(call.now))
    report.handler = call.reference
    report.ClearField("evidence")
    report.evidence.extend(request.evidence)
    return call.take(report, "rectify", reason=request.reason)


def verify_report(request: pb.VerifyReportRequest, call: calls.Call) -> Report:
    report = call.load(Report, request.name)
    if request.result == pb.VerifyReportRequest.RESULT_PASSED:
        return call.take(report, "verify", reason=request.reason)
    if not request.reason:
        raise errors.Invalid("reason", "is required when the rectification did not pass")
    return _to_work_again(report, "send_back", request.reason, call)


def send_report_feedback(request: pb.SendReportFeedbackRequest, call: calls.Call) -> Report:
    report = call.load(Report, request.name)
    report.feedback = request.feedback
    report.feedback_time.CopyFrom(resources.stamp(call.now))
    return call.take(report, "send_feedback")


def dispute_report(request: pb.DisputeReportRequest, call: calls.Call) -> Report:
    report = call.load(Report, request.name)
    report.dispute_count += 1
    return _to_work_again(report, "dispute", request.reason, call)


def close_report(request: pb.CloseReportRequest, call: calls.Call) -> Report:
    report = call.load(Report, request.name)
    report.close_time.CopyFrom(resources.stamp(call.now))
    return call.take(report, "close", reason=request.reason)


def assess_report(request: pb.AssessReportRequest, call: calls.Call) -> Report:
    report = call.load(Report, request.name)
    report.score = request.score
    return call.take(report, "assess", reason=request.reason)


def withdraw_report(request: pb.WithdrawReportRequest, call: calls.Call) -> Report:
    return call.take(call.load(Report, request.name), "withdraw", reason=request.reason)


def batch_act_on_reports(
    request: pb.BatchActOnReportsRequest, call: calls.Call
) -> pb.BatchActOnReportsResponse:
    return batches.act(request, call, pb.BatchActOnReportsResponse)


def compute_report_figures(request: pb.ComputeReportFiguresRequest, call: calls.Call) -> pb.ReportFigures:
    cut_off = resources.moment(request.cut_off_time) if request.HasField("cut_off_time") else call.now
    reported, accepted, closed, on_time, reworked = tables.report_counts(call, request, cut_off)
    return pb.ReportFigures(
        reported_count=reported,
        accepted_count=accepted,
        closed_count=closed,
        on_time_count=on_time,
        reworked_count=reworked,
        acceptance_rate=figures.rate(accepted, reported),
        closing_rate=figures.rate(closed, accepted),
        closing_rate_of_reported=figures.rate(closed, reported),
        on_time_rate=figures.rate(on_time, closed),
        rework_rate=figures.rate(reworked, accepted),
        cut_off_time=resources.stamp(cut_off),
    )


def _to_work_again(report: Report, action: str, reason: str, call: calls.Call) -> Report:
    report.rework_count += 1
    if not report.HasField("rework_time"):
        report.rework_time.CopyFrom(resources.stamp(call.now))
    return call.take(report, action, reason=reason)


HANDLERS: dict[str, Any] = {
    "FileReport": file_report,
    "GetReport": get_report,
    "ListReports": list_reports,
    "ListReportSteps": list_report_steps,
    "AcceptReport": accept_report,
    "RejectReport": reject_report,
    "MarkReportDuplicate": mark_report_duplicate,
    "AssignReport": assign_report,
    "ReturnReport": return_report,
    "StartReport": start_report,
    "RectifyReport": rectify_report,
    "VerifyReport": verify_report,
    "SendReportFeedback": send_report_feedback,
    "DisputeReport": dispute_report,
    "CloseReport": close_report,
    "AssessReport": assess_report,
    "WithdrawReport": withdraw_report,
    "BatchActOnReports": batch_act_on_reports,
    "ComputeReportFigures": compute_report_figures,
}
