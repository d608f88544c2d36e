"""Analyses of warnings, what they found, and manuals (预警数据定期分析研判、工作手册、技术导则, H-3). What is
issued later supersedes what is in force, in one commit."""

import datetime
from collections.abc import Iterator
from typing import Any

from mesh import attachments, calls, errors, flows, records, regions, resources
from services.habitat import tables
from services.habitat.figures import Figure
from village.habitat.v1 import analysis_pb2 as pb
from village.habitat.v1.analysis_pb2 import AnalysisPeriod, Finding, Manual


class EditionNotNewer(errors.Refused):
    en = "edition {edition} of {code} is in force"
    zh = "版次应大于现行版次"


# the flows

_A, _M = AnalysisPeriod.State, Manual.State
ANALYSIS_FLOW = flows.Flow(
    resource=AnalysisPeriod,
    actions={
        "draft": flows.Action(target=_A.STATE_DRAFTED, event=pb.AnalysisPeriodDrafted),
        "review": flows.Action(
            sources=frozenset({_A.STATE_DRAFTED}), target=_A.STATE_REVIEWED, event=pb.AnalysisPeriodReviewed
        ),
        "issue": flows.Action(
            sources=frozenset({_A.STATE_REVIEWED}), target=_A.STATE_ISSUED, event=pb.AnalysisPeriodIssued
        ),
        "supersede": flows.Action(
            sources=frozenset({_A.STATE_ISSUED}), target=_A.STATE_SUPERSEDED,
            event=pb.AnalysisPeriodSuperseded,
        ),
        "withdraw": flows.Action(
            sources=frozenset({_A.STATE_DRAFTED, _A.STATE_REVIEWED}), target=_A.STATE_WITHDRAWN,
            event=pb.AnalysisPeriodWithdrawn,
        ),
    },
)  # fmt: skip
MANUAL_FLOW = flows.Flow(
    resource=Manual,
    actions={
        "draft": flows.Action(target=_M.STATE_DRAFTED, event=pb.ManualDrafted),
        "review": flows.Action(
            sources=frozenset({_M.STATE_DRAFTED}), target=_M.STATE_REVIEWED, event=pb.ManualReviewed
        ),
        "issue": flows.Action(
            sources=frozenset({_M.STATE_REVIEWED}), target=_M.STATE_ISSUED, event=pb.ManualIssued
        ),
        "supersede": flows.Action(
            sources=frozenset({_M.STATE_ISSUED}), target=_M.STATE_SUPERSEDED, event=pb.ManualSuperseded
        ),
        "withdraw": flows.Action(
            sources=frozenset({_M.STATE_DRAFTED, _M.STATE_REVIEWED}), target=_M.STATE_WITHDRAWN,
            event=pb.ManualWithdrawn,
        ),
    },
)  # fmt: skip
READABLE = frozenset({_M.STATE_ISSUED, _M.STATE_SUPERSEDED})


# rules


def counted(period: AnalysisPeriod, region: str) -> None:
    """Each type of a region once, inside the region, and no more confirmed than there were."""
    seen = set()
    for n, count in enumerate(period.warnings):
        where = f"analysis_period.warnings[{n}]"
        if not regions.contains(region, count.about_region):
            raise errors.Invalid(f"{where}.about_region", "does not lie inside the region")
        if count.confirmed_count > count.count:
            raise errors.Invalid(f"{where}.confirmed_count", "is more than there were")
        if (count.warning, count.about_region) in seen:
            raise errors.Invalid(where, "is counted twice")
        seen.add((count.warning, count.about_region))


def day(date: Any, field: str) -> datetime.date:
    try:
        return datetime.date(date.year, date.month, date.day)
    except ValueError:
        raise errors.Invalid(field, "is not a day") from None


def of_a_draft(finding: Finding, call: calls.Call) -> None:
    """What was issued is not added to."""
    period = call.find(AnalysisPeriod, finding.analysis_period)
    if period is None or resources.region_in(period.name) != resources.region_in(finding.name):
        raise errors.Invalid("finding.analysis_period", "is not one of that region")
    if period.state != _A.STATE_DRAFTED:
        raise errors.Invalid("finding.analysis_period", "is no draft any more")
    if not regions.contains(resources.region_in(finding.name), finding.about_region):
        raise errors.Invalid("finding.about_region", "does not lie inside the region")
    call.rely_on(period)


def sees_drafts(call: calls.Call, region: str) -> bool:
    """Whether the caller supervises there; everybody else sees manuals that were issued."""
    return bool({"PA", "CI"} & call.caller.roles) and regions.contains(call.caller.region, region)


# analyses


def draft_analysis_period(request: pb.DraftAnalysisPeriodRequest, call: calls.Call) -> AnalysisPeriod:
    period, region = request.analysis_period, resources.region_in(request.parent)
    if day(period.start_date, "analysis_period.start_date") > day(
        period.end_date, "analysis_period.end_date"
    ):
        raise errors.Invalid("analysis_period.end_date", "lies before the first day")
    counted(period, region)
    if period.supersedes and call.find(AnalysisPeriod, period.supersedes) is None:
        raise errors.Invalid("analysis_period.supersedes", "does not exist")
    if period.supersedes and resources.region_in(period.supersedes) != region:
        raise errors.Invalid("analysis_period.supersedes", "is another region's")
    period.warning_count = sum(count.count for count in period.warnings)
    period.confirmed_count = sum(count.confirmed_count for count in period.warnings)
    period.drafter = call.reference
    return call.file(period, parent=request.parent, wanted=request.analysis_period_id)


def review_analysis_period(request: pb.ReviewAnalysisPeriodRequest, call: calls.Call) -> AnalysisPeriod:
    period = call.load(AnalysisPeriod, request.name)
    period.reviewer = call.reference
    return call.take(period, "review", reason=request.reason)


def issue_analysis_period(request: pb.IssueAnalysisPeriodRequest, call: calls.Call) -> AnalysisPeriod:
    period = call.load(AnalysisPeriod, request.name)
    period.issue_time.CopyFrom(resources.stamp(call.now))
    if period.supersedes:
        before = call.within(call.method).load(AnalysisPeriod, period.supersedes)
        before.superseded_by = period.name
        call.take(before, "supersede")
    return call.take(period, "issue", reason=request.reason)


def withdraw_analysis_period(request: pb.WithdrawAnalysisPeriodRequest, call: calls.Call) -> AnalysisPeriod:
    return call.take(call.load(AnalysisPeriod, request.name), "withdraw", reason=request.reason)


# manuals


def draft_manual(request: pb.DraftManualRequest, call: calls.Call) -> Manual:
    request.manual.drafter = call.reference
    return call.file(request.manual, parent=request.parent, wanted=request.manual_id)


def review_manual(request: pb.ReviewManualRequest, call: calls.Call) -> Manual:
    manual = call.load(Manual, request.name)
    manual.reviewer = call.reference
    return call.take(manual, "review", reason=request.reason)


def issue_manual(request: pb.IssueManualRequest, call: calls.Call) -> Manual:
    manual = call.load(Manual, request.name)
    manual.issue_time.CopyFrom(resources.stamp(call.now))
    name = tables.manual_in_force(call, resources.region_in(manual.name), manual.code)
    if name:
        before = call.within(call.method).load(Manual, name)
        if before.edition >= manual.edition:
            raise EditionNotNewer(code=manual.code, edition=str(before.edition))
        before.superseded_by = manual.name
        before.supersede_time.CopyFrom(resources.stamp(call.now))
        call.take(before, "supersede")
    return call.take(manual, "issue", reason=request.reason)


def withdraw_manual(request: pb.WithdrawManualRequest, call: calls.Call) -> Manual:
    return call.take(call.load(Manual, request.name), "withdraw", reason=request.reason)


def get_manual(request: pb.GetManualRequest, call: calls.Call) -> Manual:
    manual = call.load(Manual, request.name)
    if sees_drafts(call, resources.region_in(manual.name)):
        return manual
    if manual.state not in READABLE:
        raise errors.NotFound(name=request.name)
    return _without_authors(manual)


def list_manuals(request: pb.ListManualsRequest, call: calls.Call) -> pb.ListManualsResponse:
    if sees_drafts(call, resources.region_in(request.parent)):
        return call.page(Manual, request, pb.ListManualsResponse)
    request.filter = f"({request.filter}) AND state = ISSUED" if request.filter.strip() else "state = ISSUED"
    page = call.page(Manual, request, pb.ListManualsResponse)
    for manual in page.manuals:
        _without_authors(manual)
    return page


def download_manual_document(request: pb.DownloadManualDocumentRequest, call: calls.Call) -> Iterator[Any]:
    manual = get_manual(pb.GetManualRequest(name=request.name), call)
    return attachments.download(manual, ("document",), request.sha256, call)


def _without_authors(manual: Manual) -> Manual:
    manual.ClearField("drafter")
    manual.ClearField("reviewer")
    return manual


RESOURCES = (AnalysisPeriod, Finding, Manual)
FLOWS = (ANALYSIS_FLOW, MANUAL_FLOW)
FIGURES = (
    Figure("H-3.1", "分析研判次数", AnalysisPeriod, part="state = ISSUED OR state = SUPERSEDED", unit="次"),
    Figure(
        "H-3.2", "预警属实率", AnalysisPeriod, part="state = ISSUED", whole="state = ISSUED",
        part_sum="confirmed_count", whole_sum="warning_count",
    ),
)  # fmt: skip
HANDLERS = {
    **records.handlers(pb, AnalysisPeriod),
    **records.handlers(pb, Finding, created=pb.FindingCreated, changed=pb.FindingChanged, check=of_a_draft),
    "DraftAnalysisPeriod": draft_analysis_period,
    "ReviewAnalysisPeriod": review_analysis_period,
    "IssueAnalysisPeriod": issue_analysis_period,
    "WithdrawAnalysisPeriod": withdraw_analysis_period,
    "DraftManual": draft_manual,
    "ReviewManual": review_manual,
    "IssueManual": issue_manual,
    "WithdrawManual": withdraw_manual,
    "GetManual": get_manual,
    "ListManuals": list_manuals,
    "DownloadManualDocument": download_manual_document,
}
