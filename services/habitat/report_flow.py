"""The lifecycle of a public report (SM-0): which step follows which, within what time, and what forbids it.
Separate from the handlers, so that the whole of it is read on one page."""

from mesh import errors, flows, resources
from village.habitat.v1 import events_pb2 as events
from village.habitat.v1.report_pb2 import Report
from village.habitat.v1.report_policy_pb2 import ReportPolicy
from village.type.v1 import level_pb2

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


class ExtensionAlreadyAsked(errors.Refused):
    en = "more time for {name} was asked for once already"
    zh = "该上报件已申请过一次延期"


class NoExtensionAsked(errors.Refused):
    en = "nobody asked for more time for {name}, or it was decided on"
    zh = "该上报件没有待审批的延期申请"


class StillOpen(errors.Refused):
    en = "{name} is not finished: it is {state}"
    zh = "上报件尚未办结，暂不能删除个人信息"


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


def finished(report: Report, _around: flows.Circumstances) -> None:
    """Who handles a report needs to know what it says."""
    if report.state not in FINISHED:
        raise StillOpen(name=report.name, state=FLOW.state_name(report.state))


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
FINISHED = frozenset(
    {_S.STATE_REJECTED, _S.STATE_DUPLICATE, _S.STATE_CLOSED, _S.STATE_ASSESSED, _S.STATE_WITHDRAWN}
)
_OPEN = frozenset(_S.values()) - FINISHED - {_S.STATE_UNSPECIFIED}
_UNDER_WAY = frozenset({_S.STATE_ASSIGNED, _S.STATE_IN_PROGRESS})
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
            needs=("evidence",),
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
        "request_extension": flows.Action(
            sources=_UNDER_WAY, event=events.ReportExtensionRequested, keeps_clock=True
        ),
        "approve_extension": flows.Action(
            sources=_UNDER_WAY,
            event=events.ReportExtensionApproved,
            extends=lambda policy, _: int(policy.extension_working_days),
        ),
        "refuse_extension": flows.Action(
            sources=_UNDER_WAY, event=events.ReportExtensionRefused, keeps_clock=True
        ),
        "urge": flows.Action(sources=_OPEN, event=events.ReportUrged, keeps_clock=True),
        "reopen": flows.Action(
            sources=frozenset({_S.STATE_VERIFIED, _S.STATE_FEEDBACK_SENT, _S.STATE_CLOSED}),
            target=_S.STATE_IN_PROGRESS,
            event=events.ReportReopened,
            limit=rectify_limit,
        ),
        "release_photo": flows.Action(event=events.ReportPhotoReleased, keeps_clock=True),
        "erase": flows.Action(event=events.ReportErased, guards=(finished,), keeps_clock=True),
        flows.ESCALATE: flows.Action(event=events.ReportEscalated, keeps_clock=True),
        flows.RECOUNT: flows.Action(event=events.ReportRecounted, keeps_clock=True),
    },
)
