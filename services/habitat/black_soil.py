"""Black soil: samples, zones of like fertility, and what is to be given, by a formula (黑土地保护, H-21)."""

import dataclasses
import statistics
from typing import Any

from mesh import calls, errors, flows, records, resources
from services.habitat import figures, one_map, polygons, tables, tracks
from village.habitat.v1 import black_soil_pb2 as pb
from village.habitat.v1.black_soil_pb2 import FertiliserFormula, FertiliserPlan, FertilityZone, SoilSample
from village.habitat.v1.farm_waste_pb2 import Farm

MEASURED = ("organic_matter_g_kg", "nitrogen_mg_kg", "phosphorus_mg_kg", "potassium_mg_kg")
P2O5_OF_P, K2O_OF_K = 141.945 / (2 * 30.974), 94.196 / (2 * 39.098)
"""By molar masses: a label states phosphorus and potassium as oxides."""


class NoFormulaInForce(errors.Refused):
    en = "no fertiliser formula is in force for {crop}"
    zh = "该作物没有施行中的施肥模型"


_S = SoilSample.State
SAMPLE_FLOW = flows.Flow(
    resource=SoilSample,
    actions={
        "take": flows.Action(target=_S.STATE_TAKEN, event=pb.SoilSampleTaken),
        "test": flows.Action(
            sources=frozenset({_S.STATE_TAKEN}), target=_S.STATE_TESTED, event=pb.SoilSampleTested
        ),
    },
)  # fmt: skip
_P = FertiliserPlan.State
PLAN_FLOW = flows.Flow(
    resource=FertiliserPlan,
    actions={
        "plan": flows.Action(target=_P.STATE_PLANNED, event=pb.FertiliserPlanPlanned),
        "issue": flows.Action(
            sources=frozenset({_P.STATE_PLANNED}), target=_P.STATE_ISSUED, event=pb.FertiliserPlanIssued
        ),
        "apply": flows.Action(
            sources=frozenset({_P.STATE_ISSUED}), target=_P.STATE_APPLIED, event=pb.FertiliserPlanApplied
        ),
        "withdraw": flows.Action(
            sources=frozenset({_P.STATE_PLANNED, _P.STATE_ISSUED}), target=_P.STATE_WITHDRAWN,
            event=pb.FertiliserPlanWithdrawn,
        ),
    },
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Doses:
    """What is to be given, kg on each 亩: N, P₂O₅, K₂O, organic fertiliser; whether the most cut one."""

    nitrogen: float
    phosphate: float
    potash: float
    organic: float
    capped: bool


def lacking(target: float, measured: float, soil_kg: float) -> float:
    """What a soil lacks of a nutrient, kg; both in mg/kg."""
    return max(target - measured, 0.0) * soil_kg / 1_000_000


def doses(zone: FertilityZone, formula: FertiliserFormula) -> Doses:
    """What a zone's soil lacks, divided by how much of what is given comes into use."""
    soil, most = formula.soil_kg_per_mu, formula.greatest_kg_per_mu
    wanted = [
        lacking(target, measured, soil) * oxide / percent * 100
        for target, measured, oxide, percent in (
            (formula.nitrogen_target_mg_kg, zone.nitrogen_mg_kg, 1, formula.nitrogen_use_percent),
            (
                formula.phosphorus_target_mg_kg,
                zone.phosphorus_mg_kg,
                P2O5_OF_P,
                formula.phosphorus_use_percent,
            ),
            (formula.potassium_target_mg_kg, zone.potassium_mg_kg, K2O_OF_K, formula.potassium_use_percent),
        )
    ]
    grams = 1000 * max(formula.organic_matter_target_g_kg - zone.organic_matter_g_kg, 0.0)
    organic = lacking(grams, 0, soil) / formula.humus_percent * 100
    n, p, k = (min(dose, most) for dose in wanted)
    return Doses(n, p, k, organic, capped=max(wanted) > most)


def take_soil_sample(request: pb.TakeSoilSampleRequest, call: calls.Call) -> SoilSample:
    sample = request.soil_sample
    if resources.moment(sample.take_time) > call.now:
        raise errors.Invalid("soil_sample.take_time", "lies in the future")
    return call.file(sample, parent=request.parent, wanted=request.soil_sample_id)


def test_soil_sample(request: pb.TestSoilSampleRequest, call: calls.Call) -> SoilSample:
    sample = call.load(SoilSample, request.name)
    for field in (*MEASURED, "ph", "moisture_percent", "method"):
        setattr(sample, field, getattr(request, field))
    sample.test_time.CopyFrom(resources.stamp(call.now))
    return call.take(sample, "test", reason=request.reason)


def check_zone(zone: FertilityZone, call: calls.Call) -> None:
    """Sets a zone's means by its tested samples, and its area by its boundary."""
    samples = [call.find(SoilSample, name) for name in zone.soil_samples]
    for n, sample in enumerate(samples):
        here = resources.region_in(zone.soil_samples[n]) == resources.region_in(zone.name)
        if sample is None or not here or sample.state != _S.STATE_TESTED:
            raise errors.Invalid(f"fertility_zone.soil_samples[{n}]", "is not a tested sample of that region")
    for field in MEASURED:
        setattr(zone, field, statistics.fmean(getattr(sample, field) for sample in samples))
    zone.area_mu = tracks.mu_of(polygons.area_km2(zone.boundary) * 1_000_000)


def plan_fertiliser_plan(request: pb.PlanFertiliserPlanRequest, call: calls.Call) -> FertiliserPlan:
    plan, region = request.fertiliser_plan, resources.region_in(request.parent)
    zone, farm = call.find(FertilityZone, plan.zone), call.find(Farm, plan.farm)
    if zone is None or resources.region_in(plan.zone) != region:
        raise errors.Invalid("fertiliser_plan.zone", "is not a zone of that region")
    if farm is None or resources.region_in(plan.farm) != region:
        raise errors.Invalid("fertiliser_plan.farm", "is not a farm of that region")
    name = tables.issued_for(call, FertiliserFormula, request.parent, plan.crop, call.now, field="crop")
    formula = call.find(FertiliserFormula, name) if name else None
    if formula is None:
        raise NoFormulaInForce(crop=plan.crop)
    call.rely_on(zone)
    plan.farm_unit, plan.division, plan.formula = farm.unit, zone.division, formula.name
    _dose(plan, doses(zone, formula))
    return call.file(plan, parent=request.parent, wanted=request.fertiliser_plan_id)


def _dose(plan: FertiliserPlan, found: Doses) -> None:
    plan.nitrogen_kg_per_mu, plan.phosphate_kg_per_mu = found.nitrogen, found.phosphate
    plan.potash_kg_per_mu, plan.organic_kg_per_mu = found.potash, found.organic
    plan.capped = found.capped


def issue_fertiliser_plan(request: pb.IssueFertiliserPlanRequest, call: calls.Call) -> FertiliserPlan:
    return call.take(call.load(FertiliserPlan, request.name), "issue", reason=request.reason)


def apply_fertiliser_plan(request: pb.ApplyFertiliserPlanRequest, call: calls.Call) -> FertiliserPlan:
    plan = call.load(FertiliserPlan, request.name)
    if request.applied_mu > plan.area_mu:
        raise errors.Invalid("applied_mu", "is more land than the plan is for")
    plan.applied_mu = request.applied_mu
    plan.apply_time.CopyFrom(resources.stamp(call.now))
    return call.take(plan, "apply", reason=request.reason)


def withdraw_fertiliser_plan(request: pb.WithdrawFertiliserPlanRequest, call: calls.Call) -> FertiliserPlan:
    return call.take(call.load(FertiliserPlan, request.name), "withdraw", reason=request.reason)


FIGURES = (
    figures.Figure(
        "H-21.1", "施肥方案落实率", FertiliserPlan, part="state = APPLIED",
        whole="state = ISSUED OR state = APPLIED",
    ),
    figures.Figure(
        "H-21.2", "方案面积落实率", FertiliserPlan, part="state = APPLIED", part_sum="applied_mu",
        whole="state = ISSUED OR state = APPLIED", whole_sum="area_mu",
    ),
)  # fmt: skip
LAYERS = (one_map.Layer(FertilityZone, "肥力分区", place="boundary"),)
RESOURCES = (SoilSample, FertilityZone, FertiliserFormula, FertiliserPlan)
FLOWS = (SAMPLE_FLOW, PLAN_FLOW)
HANDLERS: dict[str, Any] = {
    **records.handlers(pb, SoilSample),
    **records.handlers(
        pb, FertilityZone, created=pb.FertilityZoneCreated, changed=pb.FertilityZoneChanged, check=check_zone
    ),
    **records.handlers(pb, FertiliserFormula, created=pb.FertiliserFormulaCreated),
    **records.handlers(pb, FertiliserPlan),
    "TakeSoilSample": take_soil_sample,
    "TestSoilSample": test_soil_sample,
    "PlanFertiliserPlan": plan_fertiliser_plan,
    "IssueFertiliserPlan": issue_fertiliser_plan,
    "ApplyFertiliserPlan": apply_fertiliser_plan,
    "WithdrawFertiliserPlan": withdraw_fertiliser_plan,
}
