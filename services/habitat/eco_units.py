"""The one map of mountains, waters, forests, fields, lakes, grass and sand: units, indicators, observations,
projects (山水林田湖草沙“一张图”, H-15)."""

from typing import Any

from mesh import calls, errors, records, resources
from services.habitat import figures, one_map, polygons, tables
from village.habitat.v1 import eco_unit_pb2 as pb
from village.habitat.v1.eco_unit_pb2 import EcoIndicator, EcoObservation, EcoProject, EcoUnit


def check_unit(unit: EcoUnit, _call: calls.Call) -> None:
    """Its stated area agrees with its boundary."""
    unit.computed_km2 = polygons.area_km2(unit.boundary)
    difference = abs(unit.computed_km2 - unit.area_km2)
    if difference * 100 > unit.area_km2 * unit.area_tolerance_percent:
        raise errors.Invalid("eco_unit.area_km2", f"the boundary encloses {unit.computed_km2:.4f} km2")


def check_indicator(indicator: EcoIndicator, _call: calls.Call) -> None:
    if indicator.least >= indicator.greatest:
        raise errors.Invalid("eco_indicator.greatest", "lies above the least value")


def check_project(project: EcoProject, call: calls.Call) -> None:
    _of_region(call, EcoUnit, project.eco_unit, project.name, "eco_project.eco_unit")
    done = project.HasField("finish_time")
    if done != (project.stage == EcoProject.STAGE_ACCEPTED):
        raise errors.Invalid(
            "eco_project.finish_time", "is stated once it is finished and accepted, and only then"
        )
    if done and resources.moment(project.finish_time) < resources.moment(project.start_time):
        raise errors.Invalid("eco_project.finish_time", "lies before its start")


def _of_region(call: calls.Call, cls: Any, name: str, beside: str, field: str) -> Any:
    found = call.find(cls, name)
    if found is None or resources.region_in(name) != resources.region_in(beside):
        raise errors.Invalid(field, "is not one of that region")
    return found


def trend(indicator: EcoIndicator, change: float) -> int:
    """Whether a change is for the better."""
    if not change:
        return EcoObservation.TREND_STEADY
    better = (change > 0) == (indicator.better == EcoIndicator.DIRECTION_HIGHER)
    return EcoObservation.TREND_BETTER if better else EcoObservation.TREND_WORSE


def create_eco_observation(request: pb.CreateEcoObservationRequest, call: calls.Call) -> EcoObservation:
    seen, parent = request.eco_observation, request.parent
    _of_region(call, EcoUnit, seen.eco_unit, parent, "eco_observation.eco_unit")
    indicator = _of_region(call, EcoIndicator, seen.indicator, parent, "eco_observation.indicator")
    if not indicator.least <= seen.value <= indicator.greatest:
        raise errors.Invalid("eco_observation.value", "is not one that the indicator can have")
    if resources.moment(seen.observe_time) > call.now:
        raise errors.Invalid("eco_observation.observe_time", "lies in the future")
    before = tables.last_before(
        call, EcoObservation, parent, "observe_time", seen.observe_time,
        eco_unit=seen.eco_unit, indicator=seen.indicator,
    )  # fmt: skip
    if before:
        seen.change = seen.value - call.find(EcoObservation, before).value  # type: ignore[union-attr]
        seen.trend = trend(indicator, seen.change)  # type: ignore[assignment]
    return call.create(seen, parent=parent, event=pb.EcoObservationCreated, wanted=request.eco_observation_id)


FIGURES = (
    figures.Figure("H-15.1", "指标向好率", EcoObservation, part="trend = BETTER", whole="trend:*"),
    figures.Figure("H-15.2", "生态修复工程验收率", EcoProject, part="stage = ACCEPTED"),
)
LAYERS = (one_map.Layer(EcoUnit, "生态单元", state="kind", place="boundary"),)
RESOURCES = (EcoUnit, EcoIndicator, EcoObservation, EcoProject)
HANDLERS = {
    **records.handlers(pb, EcoUnit, created=pb.EcoUnitCreated, changed=pb.EcoUnitChanged, check=check_unit),
    **records.handlers(
        pb,
        EcoIndicator,
        created=pb.EcoIndicatorCreated,
        changed=pb.EcoIndicatorChanged,
        check=check_indicator,
    ),
    **records.handlers(pb, EcoObservation),
    **records.handlers(
        pb, EcoProject, created=pb.EcoProjectCreated, changed=pb.EcoProjectChanged, check=check_project
    ),
    "CreateEcoObservation": create_eco_observation,
}
