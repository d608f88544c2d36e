"""Sites of geological hazards, the watch kept over them, and warnings, which emergency takes by their events
(地质灾害隐患点、巡查、预警; H-20)."""

import datetime

from mesh import calls, errors, flows, records, resources
from services.habitat import figures, one_map, tables
from village.habitat.v1 import hazard_pb2 as pb
from village.habitat.v1.hazard_pb2 import HazardSite, HazardWarning, WatchRecord

_S = HazardWarning.State
FLOW = flows.Flow(
    resource=HazardWarning,
    actions={
        "raise": flows.Action(target=_S.STATE_RAISED, event=pb.HazardWarningRaised),
        "adjust": flows.Action(sources=frozenset({_S.STATE_RAISED}), event=pb.HazardWarningAdjusted),
        "lift": flows.Action(
            sources=frozenset({_S.STATE_RAISED}), target=_S.STATE_LIFTED, event=pb.HazardWarningLifted
        ),
    },
)  # fmt: skip


def check_site(site: HazardSite, _call: calls.Call) -> None:
    """Thresholds say what they rest on."""
    if (site.rain_threshold_mm or site.displacement_threshold_mm) and not site.threshold_basis:
        raise errors.Invalid("hazard_site.threshold_basis", "is needed where a threshold is stated")


def critical(site: HazardSite, rainfall_mm: float, displacement_mm: float) -> bool:
    """Whether rain or displacement reaches a threshold that the site states."""
    pairs = (
        (rainfall_mm, site.rain_threshold_mm),
        (displacement_mm, site.displacement_threshold_mm),
    )
    return any(threshold and measured >= threshold for measured, threshold in pairs)


def _site(call: calls.Call, name: str, parent: str, field: str) -> HazardSite:
    site = call.find(HazardSite, name)
    if site is None or resources.region_in(name) != resources.region_in(parent):
        raise errors.Invalid(field, "is not a site of that region")
    return site


def create_watch_record(request: pb.CreateWatchRecordRequest, call: calls.Call) -> WatchRecord:
    watch = request.watch_record
    site = _site(call, watch.hazard_site, request.parent, "watch_record.hazard_site")
    time = resources.moment(watch.watch_time)
    if time > call.now:
        raise errors.Invalid("watch_record.watch_time", "lies in the future")
    before = tables.last_before(
        call, WatchRecord, request.parent, "watch_time", watch.watch_time, hazard_site=site.name
    )
    last = call.find(WatchRecord, before) if before else None
    due = datetime.timedelta(hours=site.watch_interval_hours)
    watch.on_time = last is None or time - resources.moment(last.watch_time) <= due
    watch.critical = critical(site, watch.rainfall_mm, watch.displacement_mm)
    watch.division = site.division
    if time > resources.moment(site.last_watch_time):
        site.last_watch_time.CopyFrom(watch.watch_time)
        call.save(site, pb.HazardSiteChanged)
    return call.create(
        watch, parent=request.parent, event=pb.WatchRecordCreated, wanted=request.watch_record_id
    )


def raise_hazard_warning(request: pb.RaiseHazardWarningRequest, call: calls.Call) -> HazardWarning:
    warning = request.hazard_warning
    site = _site(call, warning.hazard_site, request.parent, "hazard_warning.hazard_site")
    if warning.watch_record:
        watch = call.find(WatchRecord, warning.watch_record)
        if watch is None or watch.hazard_site != site.name:
            raise errors.Invalid("hazard_warning.watch_record", "is not a patrol of that site")
    warning.division, warning.open_key = site.division, site.name
    warning.location.CopyFrom(site.location)
    warning.threatened_people = site.threatened_people
    warning.raise_time.CopyFrom(resources.stamp(call.now))
    return call.file(warning, parent=request.parent, wanted=request.hazard_warning_id)


def adjust_hazard_warning(request: pb.AdjustHazardWarningRequest, call: calls.Call) -> HazardWarning:
    warning = call.load(HazardWarning, request.name)
    warning.grade = request.grade
    warning.rainfall_mm, warning.displacement_mm = request.rainfall_mm, request.displacement_mm
    return call.take(warning, "adjust", reason=request.reason)


def lift_hazard_warning(request: pb.LiftHazardWarningRequest, call: calls.Call) -> HazardWarning:
    warning = call.load(HazardWarning, request.name)
    warning.lift_time.CopyFrom(resources.stamp(call.now))
    warning.ClearField("open_key")
    return call.take(warning, "lift", reason=request.reason)


FIGURES = (
    figures.Figure("H-20.1", "按期巡查率", WatchRecord, part="on_time = true"),
    figures.Figure("H-20.2", "隐患点巡查覆盖率", HazardSite, part="last_watch_time:*"),
)
LAYERS = (
    one_map.Layer(HazardSite, "地质灾害隐患点", state="kind"),
    one_map.Layer(HazardWarning, "地质灾害预警", state="grade", time="raise_time"),
)
RESOURCES = (HazardSite, WatchRecord, HazardWarning)
FLOWS = (FLOW,)
HANDLERS = {
    **records.handlers(
        pb, HazardSite, created=pb.HazardSiteCreated, changed=pb.HazardSiteChanged, check=check_site
    ),
    **records.handlers(pb, WatchRecord),
    **records.handlers(pb, HazardWarning),
    "CreateWatchRecord": create_watch_record,
    "RaiseHazardWarning": raise_hazard_warning,
    "AdjustHazardWarning": adjust_hazard_warning,
    "LiftHazardWarning": lift_hazard_warning,
}
