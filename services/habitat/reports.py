"""Public reports on the living environment (举报板块, H-9) and their loop 上报、整改、监督、反馈、考核 (H-1,
lifecycle SM-0)."""

import datetime
from collections.abc import Iterator
from typing import Any

from mesh import attachments, batches, calls, errors, regions, resources
from services.habitat import figures, one_map, tables
from services.habitat.report_flow import (
    DuplicateOfItself,
    ExtensionAlreadyAsked,
    NoExtensionAsked,
    NoPolicyInForce,
    OriginalIsDuplicate,
)
from village.habitat.v1 import report_pb2 as pb
from village.habitat.v1.report_pb2 import Report
from village.habitat.v1.report_policy_pb2 import ReportPolicy

CLOCK_SKEW = datetime.timedelta(seconds=30)
"""How far a reporter's clock may run ahead of ours."""

# handlers


def file_report(request: pb.FileReportRequest, call: calls.Call) -> Report:
    report = request.report
    if report.HasField("observe_time") and resources.moment(report.observe_time) > call.now + CLOCK_SKEW:
        raise errors.Invalid("report.observe_time", "lies in the future")
    region = regions.region_of(resources.region_in(request.parent))
    name = tables.policy_in_force(call, region, call.now)
    if not name:
        raise NoPolicyInForce(region=region)
    report.file_time.CopyFrom(resources.stamp(call.asked))
    if not call.caller.official:
        report.reporter = call.caller.subject
    policy = call.store.policy(ReportPolicy, name)
    return call.file(report, parent=request.parent, policy=policy, wanted=request.report_id)


def get_report(request: pb.GetReportRequest, call: calls.Call) -> Report:
    return call.load(Report, request.name)


def list_reports(request: pb.ListReportsRequest, call: calls.Call) -> pb.ListReportsResponse:
    return call.page(Report, request, pb.ListReportsResponse)


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
    if original.state == Report.STATE_DUPLICATE:
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
    report.handler, report.handler_deputy = call.reference, call.caller.deputy
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


def urge_report(request: pb.UrgeReportRequest, call: calls.Call) -> Report:
    report = call.load(Report, request.name)
    report.urge_count += 1
    report.urge_time.CopyFrom(resources.stamp(call.now))
    return call.take(report, "urge", reason=request.reason)


def reopen_report(request: pb.ReopenReportRequest, call: calls.Call) -> Report:
    report = call.load(Report, request.name)
    report.ClearField("close_time")
    return _to_work_again(report, "reopen", request.reason, call)


def withdraw_report(request: pb.WithdrawReportRequest, call: calls.Call) -> Report:
    return call.take(call.load(Report, request.name), "withdraw", reason=request.reason)


def request_report_extension(request: pb.RequestReportExtensionRequest, call: calls.Call) -> Report:
    report = call.load(Report, request.name)
    if report.HasField("extension_request_time"):
        raise ExtensionAlreadyAsked(name=report.name)
    report.extension_request_time.CopyFrom(resources.stamp(call.now))
    report.extension_requester, report.extension_requester_deputy = call.reference, call.caller.deputy
    return call.take(report, "request_extension", reason=request.reason)


def decide_report_extension(request: pb.DecideReportExtensionRequest, call: calls.Call) -> Report:
    report = call.load(Report, request.name)
    if not report.HasField("extension_request_time") or report.HasField("extension_decide_time"):
        raise NoExtensionAsked(name=report.name)
    report.extension_decide_time.CopyFrom(resources.stamp(call.now))
    action = "approve_extension" if request.approve else "refuse_extension"
    return call.take(report, action, reason=request.reason)


def erase_report(request: pb.EraseReportRequest, call: calls.Call) -> Report:
    report = call.load(Report, request.name)
    report.erase_time.CopyFrom(resources.stamp(call.now))
    return call.erase(report, "erase")


def release_report_photo(request: pb.ReleaseReportPhotoRequest, call: calls.Call) -> Report:
    report = call.load(Report, request.name)
    if request.sha256 not in {photo.sha256 for photo in report.photos}:
        raise errors.Invalid("sha256", "is not that of a photo of this report")
    report.released_photos.append(request.redacted)
    return call.take(report, "release_photo")


def download_report_photo(request: pb.DownloadReportPhotoRequest, call: calls.Call) -> Iterator[Any]:
    return attachments.download(call.load(Report, request.name), ("photos",), request.sha256, call)


def download_report_evidence(request: pb.DownloadReportEvidenceRequest, call: calls.Call) -> Iterator[Any]:
    report = call.load(Report, request.name)
    return attachments.download(report, ("evidence", "released_photos"), request.sha256, call)


def batch_get_reports(request: pb.BatchGetReportsRequest, call: calls.Call) -> pb.BatchGetReportsResponse:
    return batches.get(request, call, Report, pb.BatchGetReportsResponse)


def batch_file_reports(request: pb.BatchFileReportsRequest, call: calls.Call) -> pb.BatchFileReportsResponse:
    return batches.create(request, call, pb.BatchFileReportsResponse)


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


LAYERS = (one_map.Layer(Report, "上报件", state="state", time="file_time"),)
RESOURCES = (Report,)
HANDLERS: dict[str, Any] = {
    "FileReport": file_report,
    "GetReport": get_report,
    "ListReports": list_reports,
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
    "UrgeReport": urge_report,
    "ReopenReport": reopen_report,
    "WithdrawReport": withdraw_report,
    "RequestReportExtension": request_report_extension,
    "DecideReportExtension": decide_report_extension,
    "EraseReport": erase_report,
    "ReleaseReportPhoto": release_report_photo,
    "DownloadReportPhoto": download_report_photo,
    "DownloadReportEvidence": download_report_evidence,
    "BatchGetReports": batch_get_reports,
    "BatchFileReports": batch_file_reports,
    "BatchActOnReports": batch_act_on_reports,
    "ComputeReportFigures": compute_report_figures,
}
