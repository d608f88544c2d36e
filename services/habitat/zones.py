"""Fragile and sensitive zones, their assessments, and tips that something changed (脆弱区和敏感区, H-19)."""

from mesh import calls, errors, flows, records, resources
from services.habitat import figures, one_map, polygons
from village.habitat.v1 import zone_pb2 as pb
from village.habitat.v1.eco_unit_pb2 import EcoUnit
from village.habitat.v1.sortie_pb2 import ImageSet
from village.habitat.v1.zone_pb2 import ChangeTip, FragileZone, ZoneAssessment

_Z = FragileZone.State
ZONE_FLOW = flows.Flow(
    resource=FragileZone,
    actions={
        "identify": flows.Action(target=_Z.STATE_IDENTIFIED, event=pb.FragileZoneIdentified),
        "assess": flows.Action(
            sources=frozenset({_Z.STATE_IDENTIFIED, _Z.STATE_ADJUSTED}), target=_Z.STATE_ASSESSED,
            event=pb.FragileZoneAssessed,
        ),
        "delimit": flows.Action(
            sources=frozenset({_Z.STATE_ASSESSED}), target=_Z.STATE_DELIMITED, event=pb.FragileZoneDelimited
        ),
        "monitor": flows.Action(
            sources=frozenset({_Z.STATE_DELIMITED}), target=_Z.STATE_MONITORED,
            event=pb.FragileZoneMonitored,
        ),
        "adjust": flows.Action(
            sources=frozenset({_Z.STATE_MONITORED}), target=_Z.STATE_ADJUSTED, event=pb.FragileZoneAdjusted
        ),
    },
)  # fmt: skip
_T = ChangeTip.State
TIP_FLOW = flows.Flow(
    resource=ChangeTip,
    actions={
        "file": flows.Action(target=_T.STATE_FILED, event=pb.ChangeTipFiled),
        "check": flows.Action(
            sources=frozenset({_T.STATE_FILED}), target=_T.STATE_CHECKED, event=pb.ChangeTipChecked,
            needs=("evidence",),
        ),
        "confirm": flows.Action(
            sources=frozenset({_T.STATE_CHECKED}), target=_T.STATE_CONFIRMED, event=pb.ChangeTipConfirmed
        ),
        "reject": flows.Action(
            sources=frozenset({_T.STATE_CHECKED}), target=_T.STATE_REJECTED, event=pb.ChangeTipRejected
        ),
    },
)  # fmt: skip


def identify_fragile_zone(request: pb.IdentifyFragileZoneRequest, call: calls.Call) -> FragileZone:
    return call.file(request.fragile_zone, parent=request.parent, wanted=request.fragile_zone_id)


def check_assessment(assessment: ZoneAssessment, call: calls.Call) -> None:
    zone = call.find(FragileZone, assessment.zone)
    if zone is None or resources.region_in(assessment.zone) != resources.region_in(assessment.name):
        raise errors.Invalid("zone_assessment.zone", "is not a zone of that region")


def assess_fragile_zone(request: pb.AssessFragileZoneRequest, call: calls.Call) -> FragileZone:
    zone = call.load(FragileZone, request.name)
    assessment = call.find(ZoneAssessment, request.zone_assessment)
    if assessment is None or assessment.zone != zone.name:
        raise errors.Invalid("zone_assessment", "is not an assessment of this zone")
    zone.assessment, zone.index, zone.grade = assessment.name, assessment.index, assessment.grade
    return call.take(zone, "assess", reason=request.reason)


def delimit_fragile_zone(request: pb.DelimitFragileZoneRequest, call: calls.Call) -> FragileZone:
    zone = call.load(FragileZone, request.name)
    zone.ClearField("boundary")
    zone.boundary.extend(request.boundary)
    zone.area_km2 = polygons.area_km2(zone.boundary)
    if not zone.area_km2:
        raise errors.Invalid("boundary", "encloses nothing")
    return call.take(zone, "delimit", reason=request.reason)


def monitor_fragile_zone(request: pb.MonitorFragileZoneRequest, call: calls.Call) -> FragileZone:
    return call.take(call.load(FragileZone, request.name), "monitor", reason=request.reason)


def adjust_fragile_zone(request: pb.AdjustFragileZoneRequest, call: calls.Call) -> FragileZone:
    if not request.reason:
        raise errors.Invalid("reason", "is needed: why the boundary is drawn again")
    zone = call.load(FragileZone, request.name)
    zone.adjust_reason = request.reason
    return call.take(zone, "adjust", reason=request.reason)


def file_tip(tip: ChangeTip, parent: str, call: calls.Call, wanted: str = "") -> ChangeTip:
    """Files a tip; what it refers to is of the region, and only images come with a confidence."""
    for field, cls in (("zone", FragileZone), ("eco_unit", EcoUnit), ("image_set", ImageSet)):
        name = getattr(tip, field)
        if name and (resources.region_in(name) != resources.region_in(parent) or not call.find(cls, name)):
            raise errors.Invalid(f"change_tip.{field}", "is not one of that region")
    imagery = tip.source == ChangeTip.SOURCE_IMAGERY
    if imagery != bool(tip.image_set):
        raise errors.Invalid("change_tip.image_set", "is stated of a tip from images, and only then")
    if tip.confidence and not imagery:
        raise errors.Invalid("change_tip.confidence", "is stated of a tip from images only")
    return call.file(tip, parent=parent, wanted=wanted)


def file_change_tip(request: pb.FileChangeTipRequest, call: calls.Call) -> ChangeTip:
    return file_tip(request.change_tip, request.parent, call, request.change_tip_id)


def check_change_tip(request: pb.CheckChangeTipRequest, call: calls.Call) -> ChangeTip:
    tip = call.load(ChangeTip, request.name)
    tip.checker = call.reference
    tip.check_time.CopyFrom(resources.stamp(call.now))
    tip.ClearField("evidence")
    tip.evidence.extend(request.evidence)
    return call.take(tip, "check", reason=request.reason)


def confirm_change_tip(request: pb.ConfirmChangeTipRequest, call: calls.Call) -> ChangeTip:
    return call.take(call.load(ChangeTip, request.name), "confirm", reason=request.reason)


def reject_change_tip(request: pb.RejectChangeTipRequest, call: calls.Call) -> ChangeTip:
    return call.take(call.load(ChangeTip, request.name), "reject", reason=request.reason)


FIGURES = (
    figures.Figure("H-19.1", "变化线索核查率", ChangeTip, part="check_time:*"),
    figures.Figure(
        "H-24.1", "遥感线索核查率", ChangeTip, part="source = IMAGERY AND check_time:*",
        whole="source = IMAGERY",
    ),
    figures.Figure("H-24.2", "遥感线索属实率", ChangeTip, part="source = IMAGERY AND state = CONFIRMED",
        whole="source = IMAGERY AND check_time:*",
    ),
)  # fmt: skip
LAYERS = (
    one_map.Layer(FragileZone, "脆弱区和敏感区", state="grade"),
    one_map.Layer(ChangeTip, "变化线索", state="state"),
)
RESOURCES = (FragileZone, ZoneAssessment, ChangeTip)
FLOWS = (ZONE_FLOW, TIP_FLOW)
HANDLERS = {
    **records.handlers(pb, FragileZone),
    **records.handlers(pb, ZoneAssessment, created=pb.ZoneAssessmentCreated, check=check_assessment),
    **records.handlers(pb, ChangeTip),
    "IdentifyFragileZone": identify_fragile_zone,
    "AssessFragileZone": assess_fragile_zone,
    "DelimitFragileZone": delimit_fragile_zone,
    "MonitorFragileZone": monitor_fragile_zone,
    "AdjustFragileZone": adjust_fragile_zone,
    "FileChangeTip": file_change_tip,
    "CheckChangeTip": check_change_tip,
    "ConfirmChangeTip": confirm_change_tip,
    "RejectChangeTip": reject_change_tip,
}
