"""H-15 山水林田湖草沙“一张图”: units as polygons whose area agrees, observations, their trend."""

import pytest

from mesh import errors
from services.habitat import polygons
from tests.county import County
from tests.habitat.people import PARENT, before, refusal, with_province
from village.habitat.v1 import eco_unit_pb2 as pb
from village.habitat.v1 import figure_pb2

SQUARE = [
    {"latitude": 29.2 + up, "longitude": 115.1 + right}
    for up, right in ((0, 0), (0, 0.01), (0.01, 0.01), (0.01, 0))
]  # fmt: skip
KM2 = polygons.area_km2(pb.EcoUnit(boundary=SQUARE).boundary)
T = pb.EcoObservation


@pytest.fixture
def county(county: County) -> County:
    return with_province(county)


def unit(county: County, **fields: object) -> str:
    wanted = {
        "title": "柘林湖北岸林地", "kind": pb.EcoUnit.KIND_FOREST, "boundary": SQUARE, "area_km2": KM2,
        "area_tolerance_percent": 2, **fields,
    }  # fmt: skip
    return str(county.call("province", pb.CreateEcoUnitRequest(parent=PARENT, eco_unit=wanted)).name)


def indicator(county: County, code: str = "ndvi", **fields: object) -> str:
    wanted = {
        "code": code, "title": "植被指数", "formula": "(NIR - R) / (NIR + R)", "least": -1, "greatest": 1,
        "better": pb.EcoIndicator.DIRECTION_HIGHER, **fields,
    }  # fmt: skip
    return str(
        county.call("province", pb.CreateEcoIndicatorRequest(parent=PARENT, eco_indicator=wanted)).name
    )


def observed(county: County, of: str, by: str, value: float, days: float) -> pb.EcoObservation:
    wanted = {"eco_unit": of, "indicator": by, "value": value, "observe_time": before(county, days=days)}
    made: pb.EcoObservation = county.call(
        "county", pb.CreateEcoObservationRequest(parent=PARENT, eco_observation=wanted)
    )
    return made


class TestH15:
    def test_the_area_agrees_with_the_boundary_within_its_tolerance(self, county: County) -> None:
        name = unit(county, area_km2=KM2 * 1.015)
        assert county.call("county", pb.GetEcoUnitRequest(name=name)).computed_km2 == pytest.approx(KM2)
        with pytest.raises(errors.Invalid, match=r"eco_unit\.area_km2"):
            unit(county, area_km2=KM2 * 1.03)
        smaller = pb.UpdateEcoUnitRequest(name=name, eco_unit={"area_tolerance_percent": 1})
        assert refusal(county, "province", smaller) == "INVALID"

    def test_a_boundary_has_three_points_at_least(self, county: County) -> None:
        with pytest.raises(errors.Invalid, match=r"eco_unit\.boundary"):
            unit(county, boundary=SQUARE[:2])

    def test_the_county_reads_the_map_and_does_not_draw_it(self, county: County) -> None:
        unit(county)
        assert len(county.call("county", pb.ListEcoUnitsRequest(parent=PARENT)).eco_units) == 1
        wanted = {
            "title": "x", "kind": 1, "boundary": SQUARE, "area_km2": KM2, "area_tolerance_percent": 2,
        }  # fmt: skip
        assert (
            refusal(county, "county", pb.CreateEcoUnitRequest(parent=PARENT, eco_unit=wanted)) == "FORBIDDEN"
        )
        assert refusal(county, "town", pb.ListEcoUnitsRequest(parent=PARENT)) == "FORBIDDEN"

    def test_observations_show_the_trend(self, county: County) -> None:
        of, up = unit(county), indicator(county)
        down = indicator(county, "erosion", better=pb.EcoIndicator.DIRECTION_LOWER, least=0, greatest=9000)
        assert observed(county, of, up, 0.4, 30).trend == T.TREND_UNSPECIFIED
        second = observed(county, of, up, 0.5, 10)
        assert (second.trend, second.change) == (T.TREND_BETTER, pytest.approx(0.1))
        assert observed(county, of, up, 0.5, 5).trend == T.TREND_STEADY
        observed(county, of, down, 100, 30)
        assert observed(county, of, down, 180, 10).trend == T.TREND_WORSE
        (found, _) = county.call(
            "county", figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-15"])
        ).figures
        assert (found.numerator, found.denominator) == (1, 3)

    def test_an_impossible_value_and_a_second_at_one_time_are_refused(self, county: County) -> None:
        of, by = unit(county), indicator(county)
        with pytest.raises(errors.Invalid, match=r"eco_observation\.value"):
            observed(county, of, by, 1.2, 1)
        with pytest.raises(errors.Invalid, match="future"):
            observed(county, of, by, 0.2, -1)
        observed(county, of, by, 0.2, 1)
        with pytest.raises(errors.AlreadyExists):
            observed(county, of, by, 0.3, 1)

    def test_a_project_is_finished_when_it_is_accepted(self, county: County) -> None:
        wanted = {
            "eco_unit": unit(county), "title": "封山育林", "stage": pb.EcoProject.STAGE_UNDER_WAY,
            "area_ha": 80, "start_time": before(county, days=300),
        }  # fmt: skip
        name = county.call("county", pb.CreateEcoProjectRequest(parent=PARENT, eco_project=wanted)).name
        done = {"stage": pb.EcoProject.STAGE_ACCEPTED}
        assert refusal(county, "county", pb.UpdateEcoProjectRequest(name=name, eco_project=done)) == "INVALID"
        done["finish_time"] = before(county, days=1)  # type: ignore[assignment]
        assert refusal(county, "county", pb.UpdateEcoProjectRequest(name=name, eco_project=done)) == "OK"
