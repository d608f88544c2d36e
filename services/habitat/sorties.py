"""Sorties of drones and satellites, images by reference, tips read from them (卫星遥感、无人机, H-24)."""

from mesh import calls, errors, flows, records, resources
from services.habitat import one_map, polygons, zones
from village.habitat.v1 import sortie_pb2 as pb
from village.habitat.v1.sortie_pb2 import ImageSet, Sortie, SurveyTip
from village.habitat.v1.zone_pb2 import ChangeTip


class FlightNotPermitted(errors.Refused):
    en = "{name} has no airspace permit"
    zh = "无人机任务未取得飞行活动审批"


class FlightOutsideWindow(errors.Refused):
    en = "{name} may be flown from {start} until {end}"
    zh = "飞行时间不在许可时段内"


_S = Sortie.State
FLOW = flows.Flow(
    resource=Sortie,
    actions={
        "plan": flows.Action(target=_S.STATE_PLANNED, event=pb.SortiePlanned),
        "fly": flows.Action(
            sources=frozenset({_S.STATE_PLANNED}), target=_S.STATE_FLOWN, event=pb.SortieFlown
        ),
        "process": flows.Action(
            sources=frozenset({_S.STATE_FLOWN}), target=_S.STATE_PROCESSED, event=pb.SortieProcessed,
            needs=("image_sets",),
        ),
        "cancel": flows.Action(
            sources=frozenset({_S.STATE_PLANNED}), target=_S.STATE_CANCELLED, event=pb.SortieCancelled
        ),
    },
)  # fmt: skip


def plan_sortie(request: pb.PlanSortieRequest, call: calls.Call) -> Sortie:
    sortie = request.sortie
    if resources.moment(sortie.window_end_time) <= resources.moment(sortie.window_start_time):
        raise errors.Invalid("sortie.window_end_time", "lies before its start")
    sortie.area_km2 = polygons.area_km2(sortie.boundary)
    if not sortie.area_km2:
        raise errors.Invalid("sortie.boundary", "encloses nothing")
    return call.file(sortie, parent=request.parent, wanted=request.sortie_id)


def fly_sortie(request: pb.FlySortieRequest, call: calls.Call) -> Sortie:
    sortie = call.load(Sortie, request.name)
    if sortie.platform == Sortie.PLATFORM_DRONE and not sortie.flight_permit:
        raise FlightNotPermitted(name=sortie.name)
    start, end = resources.moment(sortie.window_start_time), resources.moment(sortie.window_end_time)
    flown = resources.moment(request.fly_time)
    if flown > call.now:
        raise errors.Invalid("fly_time", "lies in the future")
    if not start <= flown <= end:
        raise FlightOutsideWindow(name=sortie.name, start=start.isoformat(), end=end.isoformat())
    sortie.fly_time.CopyFrom(request.fly_time)
    sortie.flown_km2 = request.flown_km2
    return call.take(sortie, "fly", reason=request.reason)


def process_sortie(request: pb.ProcessSortieRequest, call: calls.Call) -> Sortie:
    sortie = call.load(Sortie, request.name)
    for n, name in enumerate(request.image_sets):
        images = call.find(ImageSet, name)
        if images is None or images.sortie != sortie.name:
            raise errors.Invalid(f"image_sets[{n}]", "is not of this sortie")
    sortie.image_sets[:] = request.image_sets
    return call.take(sortie, "process", reason=request.reason)


def cancel_sortie(request: pb.CancelSortieRequest, call: calls.Call) -> Sortie:
    return call.take(call.load(Sortie, request.name), "cancel", reason=request.reason)


def check_images(images: ImageSet, call: calls.Call) -> None:
    """They are of a sortie that was flown."""
    sortie = call.find(Sortie, images.sortie)
    if sortie is None or resources.region_in(images.sortie) != resources.region_in(images.name):
        raise errors.Invalid("image_set.sortie", "is not a sortie of that region")
    if sortie.state not in (_S.STATE_FLOWN, _S.STATE_PROCESSED):
        raise errors.Invalid("image_set.sortie", "has not been flown")


def create_survey_tip(request: pb.CreateSurveyTipRequest, call: calls.Call) -> SurveyTip:
    tip, parent = request.survey_tip, request.parent
    if call.find(ImageSet, tip.image_set) is None or resources.region_in(
        tip.image_set
    ) != resources.region_in(parent):
        raise errors.Invalid("survey_tip.image_set", "is not a set of images of that region")
    wanted = {SurveyTip.TARGET_ZONE: "zone", SurveyTip.TARGET_ECO_UNIT: "eco_unit"}.get(tip.target, "")
    for field in ("zone", "eco_unit"):
        if bool(getattr(tip, field)) != (field == wanted):
            raise errors.Invalid(f"survey_tip.{field}", "is stated of a tip for it, and only then")
    if wanted:
        filed = ChangeTip(
            source=ChangeTip.SOURCE_IMAGERY, image_set=tip.image_set, division=tip.division,
            location=tip.location, confidence=tip.confidence, description=tip.label,
            zone=tip.zone, eco_unit=tip.eco_unit,
        )  # fmt: skip
        tip.change_tip = zones.file_tip(filed, parent, call).name
    return call.create(tip, parent=parent, event=pb.SurveyTipCreated, wanted=request.survey_tip_id)


LAYERS = (one_map.Layer(Sortie, "航飞任务", state="state", time="fly_time", place="boundary"),)
RESOURCES = (Sortie, ImageSet, SurveyTip)
FLOWS = (FLOW,)
HANDLERS = {
    **records.handlers(pb, Sortie),
    **records.handlers(pb, ImageSet, created=pb.ImageSetCreated, check=check_images),
    **records.handlers(pb, SurveyTip),
    "PlanSortie": plan_sortie,
    "FlySortie": fly_sortie,
    "ProcessSortie": process_sortie,
    "CancelSortie": cancel_sortie,
    "CreateSurveyTip": create_survey_tip,
}
