"""Spots that are looked at, and tips from images of them (村容村貌监测, H-6). A tip is a guess until somebody
looks: then it becomes a report, or is emptied, and deleted days later; how many there were stays as a tally.
It knows no face, no plate and no household (V-5)."""

import datetime
import logging
from collections.abc import Iterator
from typing import Any

from mesh import attachments, calls, database, errors, flows, reactions, records, resources, runtime
from mesh.store import Store
from services.habitat import devices, limits, reports, tables
from services.habitat.figures import Figure
from village.habitat.v1 import appearance_pb2 as pb
from village.habitat.v1 import events_pb2, report_pb2
from village.habitat.v1.appearance_pb2 import ImageTip, ImageTipTally, Spot
from village.habitat.v1.limit_policy_pb2 import LimitPolicy
from village.habitat.v1.report_pb2 import Report

KEPT_AT_MOST = datetime.timedelta(days=30)
"""How long an image is kept that nobody looked at, whatever a policy says (V-5)."""
REJECTED_KEPT = datetime.timedelta(days=7)
"""How long one that was rejected is kept, emptied (V-5)."""
LIMITS: dict[str, limits.Limits] = {"imageTips": {"file": 2, "forget": KEPT_AT_MOST}}
"""Working days until somebody looks, a local value, not from a standard; and when a tip is forgotten."""
LOOKED_EVERY = datetime.timedelta(hours=1)
log = logging.getLogger(__name__)

# the flow

_S = ImageTip.State
FLOW = flows.Flow(
    resource=ImageTip,
    policy=LimitPolicy,
    escalate_after=limits.escalate_after,
    actions={
        "file": flows.Action(target=_S.STATE_FILED, event=pb.ImageTipFiled, limit=limits.after("file")),
        "confirm": flows.Action(
            sources=frozenset({_S.STATE_FILED}), target=_S.STATE_CONFIRMED, event=pb.ImageTipConfirmed
        ),
        "fix": flows.Action(
            sources=frozenset({_S.STATE_CONFIRMED}), target=_S.STATE_FIXED, event=pb.ImageTipFixed
        ),
        "reject": flows.Action(
            sources=frozenset({_S.STATE_FILED}), target=_S.STATE_REJECTED, event=pb.ImageTipRejected
        ),
        flows.ESCALATE: flows.Action(event=pb.ImageTipEscalated, keeps_clock=True),
        flows.RECOUNT: flows.Action(event=pb.ImageTipRecounted, keeps_clock=True),
    },
)  # fmt: skip


# handlers


def file_image_tip(request: pb.FileImageTipRequest, call: calls.Call) -> ImageTip:
    tip = request.image_tip
    spot = call.find(Spot, tip.spot)
    if spot is None or resources.region_in(spot.name) != resources.region_in(request.parent):
        raise errors.Invalid("image_tip.spot", "is not a spot of that region")
    if resources.moment(tip.take_time) > call.now:
        raise errors.Invalid("image_tip.take_time", "lies in the future")
    if tip.device or "DEV" in call.caller.roles:
        devices.reporting(call, tip.device, spot.name)
    tip.division = spot.division
    tip.file_time.CopyFrom(resources.stamp(call.now))
    policy = limits.in_force(call, request.parent, "imageTips")
    return call.file(tip, parent=request.parent, policy=policy, wanted=request.image_tip_id)


def confirm_image_tip(request: pb.ConfirmImageTipRequest, call: calls.Call) -> ImageTip:
    """The report has the tip's id, by which the tip is found when the report is verified."""
    tip = call.load(ImageTip, request.name)
    spot = call.find(Spot, tip.spot)
    assert spot is not None  # nothing deletes one
    report = Report(
        category=Report.CATEGORY_APPEARANCE, description=request.description, division=tip.division,
        location=spot.location, observe_time=tip.take_time, photos=[tip.image],
    )  # fmt: skip
    region, _, tip_id = tip.name.rsplit("/", 2)
    filing = report_pb2.FileReportRequest(parent=region, report=report, report_id=tip_id)
    tip.report = reports.file_report(filing, call).name
    tip.ClearField("image")
    _count(tip.division, call, confirmed=1)
    return call.take(_decided(tip, call), "confirm", reason=request.reason)


def reject_image_tip(request: pb.RejectImageTipRequest, call: calls.Call) -> ImageTip:
    """What it showed and where is forgotten at once; the file goes a day after nothing refers to it, the rest
    with `forget`."""
    tip = call.load(ImageTip, request.name)
    tip.decider = call.reference
    return _emptied(tip, request.cause, call)


def _emptied(tip: ImageTip, cause: ImageTip.Cause, call: calls.Call) -> ImageTip:
    tip.cause = cause
    tip.decide_time.CopyFrom(resources.stamp(call.now))
    _count(tip.division, call, rejected=1)
    for field in ("spot", "device", "take_time", "recogniser"):
        tip.ClearField(field)
    return call.erase(tip, "reject")


def _decided(tip: ImageTip, call: calls.Call) -> ImageTip:
    tip.decider = call.reference
    tip.decide_time.CopyFrom(resources.stamp(call.now))
    return tip


def _count(division: str, call: calls.Call, *, confirmed: int = 0, rejected: int = 0) -> None:
    """Counts a decision in the tally of its village and month."""
    month = call.now.astimezone(tables.CHINA).strftime("%Y-%m")
    wanted, region = f"{division}-{month}", f"regions/{division[:6]}"
    tally = call.find(ImageTipTally, f"{region}/imageTipTallies/{wanted}")
    fresh = tally is None
    if tally is None:
        tally = ImageTipTally(division=division, month=month)
    tally.confirmed_count += confirmed
    tally.rejected_count += rejected
    tally.decided_count += confirmed + rejected
    if fresh:
        call.create(tally, parent=region, event=pb.ImageTipTallyCreated, wanted=wanted, shared=True)
    else:
        call.save(tally, pb.ImageTipTallyChanged)


def download_tip_image(request: pb.DownloadTipImageRequest, call: calls.Call) -> Iterator[Any]:
    return attachments.download(call.load(ImageTip, request.name), ("image",), request.sha256, call)


# what happens by itself


def kept_for(policy: LimitPolicy) -> datetime.timedelta:
    """How long a tip is kept that nobody looks at."""
    stated = [limit.natural.ToTimedelta() for limit in policy.limits if limit.action == "forget"]
    return min([*filter(None, stated), KEPT_AT_MOST])


def forget(store: Store, now: datetime.datetime) -> int:
    """Empties what nobody looked at in its time, and deletes what was rejected long enough ago; how many."""
    count = 0
    for name, policy, filed in tables.undecided_tips(store):
        if filed + kept_for(store.policy(LimitPolicy, policy)) <= now:
            count += _by_itself(store, name, now, _S.STATE_FILED)
    for name in tables.rejected_tips(store, now - REJECTED_KEPT):
        count += _by_itself(store, name, now, _S.STATE_REJECTED)
    return count


def _by_itself(store: Store, name: str, now: datetime.datetime, state: ImageTip.State) -> bool:
    call = calls.own(store, "forget", now)
    tip = call.find(ImageTip, name)
    if tip is None or tip.state != state:
        return False
    if state == _S.STATE_FILED:
        _emptied(tip, ImageTip.CAUSE_UNSEEN, call)
    else:
        call.delete(tip, pb.ImageTipDeleted)
    try:
        store.commit(call.changes.commit())  # type: ignore[arg-type]
    except (database.Moved, database.Disowned, errors.Refusal) as fault:  # the next time, then
        log.warning("a tip is not forgotten yet", extra={"about": {"name": name, "why": repr(fault)}})
        return False
    return True


class Forgetting:
    """Forgets once an hour, beside the process's own rounds."""

    def __init__(self) -> None:
        self._next = resources.EPOCH

    def __call__(self, _process: Any, hosted: runtime.Hosted) -> None:
        now = resources.utcnow()
        if hosted.store is not None and now >= self._next:
            self._next = now + LOOKED_EVERY
            forget(hosted.store, now)


# reactions


def on_report_verified(event: events_pb2.ReportVerified, call: calls.Call) -> None:
    """The tip that a report came of is fixed when the report's rectification was verified."""
    tip = call.find(ImageTip, event.report.name.replace("/reports/", "/imageTips/"))
    if tip is None or tip.state != _S.STATE_CONFIRMED:
        return
    tip.fix_time.CopyFrom(event.step.time)
    span = resources.moment(event.step.time) - resources.moment(tip.file_time)
    tip.fix_days, tip.fix_count = span.total_seconds() / 86_400, 1
    call.take(tip, "fix")


RESOURCES = (Spot, ImageTip, ImageTipTally)
FLOWS = (FLOW,)
REACTIONS = (
    reactions.Reaction(
        "fix-image-tips", "village.*.*.*.habitat.report.verified", on_report_verified
    ),
)  # fmt: skip
FIGURES = (
    Figure("H-6.1", "线索属实率", ImageTipTally, part_sum="confirmed_count", whole_sum="decided_count"),
    Figure("H-6.2", "平均整改天数", ImageTip, part_sum="fix_days", whole_sum="fix_count", unit="d"),
)
HANDLERS = {
    **records.handlers(pb, Spot, created=pb.SpotCreated, changed=pb.SpotChanged),
    **records.handlers(pb, ImageTip),
    **records.handlers(pb, ImageTipTally),
    "FileImageTip": file_image_tip,
    "ConfirmImageTip": confirm_image_tip,
    "RejectImageTip": reject_image_tip,
    "DownloadTipImage": download_tip_image,
}
