"""H-21 黑土地保护: samples become a zone, a zone and a formula a plan, and a farm applies its own."""

import pytest

from mesh import errors
from services.habitat import black_soil
from tests.county import FARM_2_UNIT, LAB_UNIT, County
from tests.habitat.people import DIVISION, HERE, PARENT, before, refusal
from tests.habitat.test_h15_eco_units import KM2, SQUARE
from tests.habitat.test_h18_farm_waste import farm
from village.habitat.v1 import black_soil_pb2 as pb
from village.habitat.v1 import farm_waste_pb2 as pb_farm
from village.habitat.v1 import figure_pb2

P = pb.FertiliserPlan
FOUND = {
    "organic_matter_g_kg": 20, "nitrogen_mg_kg": 100, "phosphorus_mg_kg": 15, "potassium_mg_kg": 120,
    "ph": 6.4, "moisture_percent": 21, "method": "NY/T 1121",
}  # fmt: skip
FORMULA = {
    "crop": "玉米", "organic_matter_target_g_kg": 22, "nitrogen_target_mg_kg": 130,
    "phosphorus_target_mg_kg": 25,
    "potassium_target_mg_kg": 110, "soil_kg_per_mu": 150000, "nitrogen_use_percent": 30,
    "phosphorus_use_percent": 20, "potassium_use_percent": 50, "humus_percent": 30, "greatest_kg_per_mu": 20,
    "basis": "县黑土地保护方案", "confidence": pb.FertiliserFormula.CONFIDENCE_LOW,
}  # fmt: skip


def sample(county: County, **found: float) -> str:
    wanted = {
        "division": DIVISION, "location": HERE, "take_time": before(county, days=3), "depth_cm": 20,
        "laboratory": LAB_UNIT,
    }  # fmt: skip
    name = county.call("village", pb.TakeSoilSampleRequest(parent=PARENT, soil_sample=wanted)).name
    county.call("lab", pb.TestSoilSampleRequest(name=name, **{**FOUND, **found}))
    return str(name)


def zone(county: County, samples: list[str]) -> pb.FertilityZone:
    wanted = {"division": DIVISION, "title": "北岸一区", "boundary": SQUARE, "soil_samples": samples}
    made: pb.FertilityZone = county.call(
        "county", pb.CreateFertilityZoneRequest(parent=PARENT, fertility_zone=wanted)
    )
    return made


def formula(county: County, **fields: object) -> str:
    wanted = {**FORMULA, "effective_time": before(county, days=1), **fields}
    request = pb.CreateFertiliserFormulaRequest(parent=PARENT, fertiliser_formula=wanted)
    return str(county.call("county", request).name)


def planned(county: County, **fields: object) -> pb.FertiliserPlan:
    wanted = {"crop": "玉米", "area_mu": 50, **fields}
    if "zone" not in fields:
        wanted["zone"] = zone(county, [sample(county)]).name
    if "farm" not in fields:
        wanted["farm"] = farm(county)
    made: pb.FertiliserPlan = county.call(
        "county", pb.PlanFertiliserPlanRequest(parent=PARENT, fertiliser_plan=wanted)
    )
    return made


class TestDoses:
    def test_are_what_the_soil_lacks_over_what_comes_into_use(self) -> None:
        found = black_soil.doses(
            pb.FertilityZone(**{k: FOUND[k] for k in black_soil.MEASURED}), pb.FertiliserFormula(**FORMULA)
        )
        assert found.nitrogen == pytest.approx(15)  # 30 mg/kg × 0.15 / 0.3
        assert found.phosphate == pytest.approx(10 * 0.15 * 2.2914 / 0.2, rel=1e-4)
        assert found.potash == 0
        assert found.organic == pytest.approx(1000)  # 2 g/kg × 150 / 0.3
        assert not found.capped

    def test_are_cut_at_the_most_that_is_given(self) -> None:
        poor = pb.FertilityZone(organic_matter_g_kg=20, nitrogen_mg_kg=50)
        found = black_soil.doses(poor, pb.FertiliserFormula(**FORMULA))
        assert (found.nitrogen, found.capped) == (20, True)


class TestH21:
    def test_a_plan_goes_from_the_sample_to_the_field(self, county: County) -> None:
        formula(county)
        made = planned(county)
        assert (made.nitrogen_kg_per_mu, made.potash_kg_per_mu) == (pytest.approx(15), 0)
        early = pb.ApplyFertiliserPlanRequest(name=made.name, applied_mu=40)
        assert refusal(county, "farm", early) == "ACTION_NOT_ALLOWED"
        county.call("county", pb.IssueFertiliserPlanRequest(name=made.name))
        assert county.call("farm", early).state == P.STATE_APPLIED
        found = county.call("county", figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-21"])).figures
        assert [f.value.value for f in found] == ["100.00", "80.00"]

    def test_a_zone_is_the_mean_of_its_samples(self, county: County) -> None:
        made = zone(county, [sample(county), sample(county, nitrogen_mg_kg=140)])
        assert (made.nitrogen_mg_kg, made.organic_matter_g_kg) == (120, 20)
        assert made.area_mu == pytest.approx(KM2 * 1500)

    def test_a_sample_that_is_not_tested_stands_for_nothing(self, county: County) -> None:
        wanted = {
            "division": DIVISION, "location": HERE, "take_time": before(county), "depth_cm": 20,
            "laboratory": LAB_UNIT,
        }  # fmt: skip
        name = county.call("county", pb.TakeSoilSampleRequest(parent=PARENT, soil_sample=wanted)).name
        with pytest.raises(errors.Invalid, match=r"soil_samples\[0\]"):
            zone(county, [name])
        assert refusal(county, "lab_2", pb.TestSoilSampleRequest(name=name, **FOUND)) == "FORBIDDEN"

    def test_a_farm_sees_and_applies_its_own_plans(self, county: County) -> None:
        formula(county)
        made = planned(county)
        other = planned(county, farm=farm(county, "county", FARM_2_UNIT), zone=made.zone)
        listed = county.call("farm", pb.ListFertiliserPlansRequest(parent=PARENT)).fertiliser_plans
        assert [p.name for p in listed] == [made.name]
        county.call("county", pb.IssueFertiliserPlanRequest(name=other.name))
        request = pb.ApplyFertiliserPlanRequest(name=other.name, applied_mu=1)
        assert refusal(county, "farm", request) == "FORBIDDEN"
        assert refusal(county, "farm_2", request) == "OK"

    def test_no_more_land_is_treated_than_planned(self, county: County) -> None:
        formula(county)
        made = planned(county)
        county.call("county", pb.IssueFertiliserPlanRequest(name=made.name))
        request = pb.ApplyFertiliserPlanRequest(name=made.name, applied_mu=51)
        assert refusal(county, "farm", request) == "INVALID"

    def test_the_formula_is_the_one_in_force_for_the_crop(self, county: County) -> None:
        formula(county, crop="水稻")
        with pytest.raises(errors.Refused, match="no fertiliser formula"):
            planned(county)
        formula(county, effective_time=before(county, days=9))
        later = formula(county, effective_time=before(county, days=2))
        formula(county, effective_time=before(county, days=-2))
        zones = county.call("county", pb.ListFertilityZonesRequest(parent=PARENT)).fertility_zones
        farms = county.call("county", pb_farm.ListFarmsRequest(parent=PARENT)).farms
        assert planned(county, zone=zones[0].name, farm=farms[0].name).formula == later
