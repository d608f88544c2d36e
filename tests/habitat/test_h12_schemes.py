"""H-12 监测标准和方案: a county proposes what is measured for a village type, the province approves, and one
scheme is in force at a time."""

import pytest

from mesh import errors
from tests.county import County
from tests.habitat.people import PARENT, refusal, with_province
from tests.habitat.test_h11_sources import source
from village.habitat.v1 import figure_pb2, station_pb2
from village.habitat.v1 import scheme_pb2 as pb

M = pb.MonitoringScheme
PH = {"factor": "w01001", "change": M.CHANGE_ADDED, "times_per_year": 12, "method": "HJ 1147-2020"}
COD = {
    "factor": "w01018",
    "change": M.CHANGE_ADDED,
    "times_per_year": 4,
    "method": "HJ 828-2017",
    "unit": "mg/L",
}


@pytest.fixture
def county(county: County) -> County:
    return with_province(county)


def village_type(county: County, code: str = "class-1") -> str:
    wanted = {"code": code, "title": "一类村庄", "criteria": "集中供水 1000 人以上"}
    request = pb.CreateVillageTypeRequest(parent=PARENT, village_type=wanted, village_type_id=code)
    return str(county.call("county", request).name)


def proposed(county: County, of: str, **fields: object) -> pb.MonitoringScheme:
    wanted = {
        "village_type": of,
        "title": "水源监测方案",
        "basis": "HJ 91.2-2022",
        "parameters": [PH, COD],
        **fields,
    }
    made: pb.MonitoringScheme = county.call(
        "county", pb.ProposeMonitoringSchemeRequest(parent=PARENT, monitoring_scheme=wanted)
    )
    return made


def in_force(county: County, of: str, **fields: object) -> str:
    name = str(proposed(county, of, **fields).name)
    county.call("province", pb.ApproveMonitoringSchemeRequest(name=name))
    county.call("county", pb.EnforceMonitoringSchemeRequest(name=name))
    return name


def state(county: County, name: str) -> int:
    return int(county.call("county", pb.GetMonitoringSchemeRequest(name=name)).state)


class TestH12:
    def test_the_next_scheme_takes_the_place_of_the_one_in_force(self, county: County) -> None:
        of = village_type(county)
        first = in_force(county, of)
        second = in_force(county, of, base=first, parameters=[{**COD, "change": M.CHANGE_CUT}])
        assert (state(county, first), state(county, second)) == (M.STATE_RETIRED, M.STATE_IN_FORCE)
        kept = county.call("county", pb.GetVillageTypeRequest(name=of))
        assert (kept.scheme, kept.editions) == (second, 2)
        asked = pb.ListMonitoringSchemesRequest(parent=PARENT, filter="state = IN_FORCE")
        assert [s.name for s in county.call("town", asked).monitoring_schemes] == [second]

    def test_changes_are_made_to_the_base(self, county: County) -> None:
        of = village_type(county)
        first = in_force(county, of)
        do = {"factor": "w01009", "change": M.CHANGE_ADDED, "times_per_year": 8760, "method": "HJ 506-2009"}
        changes = [
            {**PH, "change": M.CHANGE_ALTERED, "times_per_year": 52},
            {**COD, "change": M.CHANGE_CUT},
            do,
        ]
        made = proposed(county, of, base=first, parameters=changes)
        assert [(p.factor, p.times_per_year) for p in made.resulting] == [("w01001", 52), ("w01009", 8760)]
        assert made.edition == 2

    @pytest.mark.parametrize(
        ("parameters", "field"),
        [
            ([{**COD, "change": M.CHANGE_CUT}], r"parameters\[0\]\.change"),
            ([PH, {**COD, "method": ""}], r"parameters\[1\]"),
            ([PH, PH], r"monitoring_scheme\.parameters"),
        ],
    )
    def test_a_change_that_does_not_fit_is_refused(
        self, county: County, parameters: list[object], field: str
    ) -> None:
        with pytest.raises(errors.Invalid, match=field):
            proposed(county, village_type(county), parameters=parameters)

    def test_a_draft_is_no_base(self, county: County) -> None:
        of = village_type(county)
        draft = proposed(county, of).name
        with pytest.raises(errors.Invalid, match=r"monitoring_scheme\.base"):
            proposed(county, of, base=draft, parameters=[{**COD, "change": M.CHANGE_CUT}])

    def test_the_county_does_not_approve_and_nothing_holds_unapproved(self, county: County) -> None:
        name = proposed(county, village_type(county)).name
        assert refusal(county, "county", pb.ApproveMonitoringSchemeRequest(name=name)) == "FORBIDDEN"
        assert refusal(county, "county", pb.EnforceMonitoringSchemeRequest(name=name)) == "ACTION_NOT_ALLOWED"

    def test_a_type_without_a_scheme_is_left_when_it_is_retired(self, county: County) -> None:
        of = village_type(county)
        name = in_force(county, of)
        county.call("province", pb.RetireMonitoringSchemeRequest(name=name, reason="撤销"))
        assert county.call("county", pb.GetVillageTypeRequest(name=of)).scheme == ""
        in_force(county, of)

    def test_coverage_counts_sources_whose_type_has_a_scheme(self, county: County) -> None:
        asked = pb.ComputeSchemeCoverageRequest(parent=PARENT)
        for code in ("class-1", "class-2", ""):
            change = station_pb2.UpdateWaterSourceRequest(
                name=source(county).name, water_source={"village_type": code}
            )
            county.call("county", change)
        in_force(county, village_type(county))
        village_type(county, "class-2")
        found = county.call("county", asked).sources
        assert (found.numerator, found.denominator, found.percent.value) == (1, 3, "33.33")
        assert county.call("other_town", asked).sources.denominator == 0
        types = figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-12"])
        assert county.call("county", types).figures[0].value.value == "50.00"

    def test_a_village_type_has_its_code_alone(self, county: County) -> None:
        village_type(county)
        wanted = {"code": "class-1", "title": "又一类", "criteria": "同上"}
        again = pb.CreateVillageTypeRequest(parent=PARENT, village_type=wanted)
        assert refusal(county, "county", again) == "ALREADY_EXISTS"
        assert refusal(county, "village", again) == "FORBIDDEN"
