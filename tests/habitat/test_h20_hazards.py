"""H-20 地质灾害风险: a site is patrolled in time or not, and a warning goes to emergency by its event."""

import pytest

from mesh import errors
from tests.county import PHOTO, County
from tests.habitat.people import DIVISION, HERE, PARENT, before, refusal
from tests.habitat.test_h02_one_map import drawn
from tests.loop import rows
from village.habitat.v1 import figure_pb2
from village.habitat.v1 import hazard_pb2 as pb

W = pb.HazardWarning


def site(county: County, **fields: object) -> str:
    wanted = {
        "division": DIVISION, "title": "屋背山滑坡", "kind": pb.HazardSite.KIND_LANDSLIDE, "location": HERE,
        "threatened_people": 37, "watch_interval_hours": 24, "watch_post": "村地灾监测岗",
        "rain_threshold_mm": 100, "displacement_threshold_mm": 20, "threshold_basis": "县地灾防治方案 2026",
        **fields,
    }  # fmt: skip
    return str(county.call("county", pb.CreateHazardSiteRequest(parent=PARENT, hazard_site=wanted)).name)


def patrol(county: County, of: str, hours: float, **fields: object) -> pb.WatchRecord:
    wanted = {"hazard_site": of, "watch_time": before(county, hours=hours), "photos": [PHOTO], **fields}
    made: pb.WatchRecord = county.call(
        "village", pb.CreateWatchRecordRequest(parent=PARENT, watch_record=wanted)
    )
    return made


def raised(county: County, of: str, **fields: object) -> pb.HazardWarning:
    wanted = {"hazard_site": of, "grade": W.GRADE_YELLOW, "rainfall_mm": 120, "displacement_mm": 8, **fields}
    made: pb.HazardWarning = county.call(
        "county", pb.RaiseHazardWarningRequest(parent=PARENT, hazard_warning=wanted)
    )
    return made


class TestPatrols:
    def test_come_in_time_or_late(self, county: County) -> None:
        of = site(county)
        found = [patrol(county, of, hours).on_time for hours in (60, 40, 10)]
        assert found == [True, True, False]
        (rate, _) = county.call(
            "county", figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-20"])
        ).figures
        assert (rate.numerator, rate.denominator, rate.value.value) == (2, 3, "66.67")

    def test_measure_what_is_critical(self, county: County) -> None:
        of = site(county)
        assert not patrol(county, of, 30, rainfall_mm=99.9).critical
        assert patrol(county, of, 20, rainfall_mm=100).critical
        assert patrol(county, of, 10, displacement_mm=21).critical
        silent = site(county, rain_threshold_mm=0, displacement_threshold_mm=0)
        assert not patrol(county, silent, 10, rainfall_mm=500).critical

    def test_show_at_the_site_when_it_was_last_seen(self, county: County) -> None:
        of = site(county)
        patrol(county, of, 10)
        patrol(county, of, 20)
        seen = county.call("village", pb.GetHazardSiteRequest(name=of)).last_watch_time
        assert seen.seconds == before(county, hours=10)["seconds"]

    def test_are_of_what_was_and_of_the_own_township(self, county: County) -> None:
        of = site(county)
        with pytest.raises(errors.Invalid, match="future"):
            patrol(county, of, -1)
        wanted = {"hazard_site": of, "watch_time": before(county)}
        request = pb.CreateWatchRecordRequest(parent=PARENT, watch_record=wanted)
        assert refusal(county, "other_town", request) == "FORBIDDEN"

    def test_are_held_against_thresholds_that_rest_on_something(self, county: County) -> None:
        with pytest.raises(errors.Invalid, match="threshold_basis"):
            site(county, threshold_basis="")


class TestWarnings:
    def test_are_drawn_with_their_colour(self, county: County) -> None:
        raised(county, site(county))
        found = drawn(county, layers=["hazardSites", "hazardWarnings"])["features"]
        assert [f["properties"]["state"] for f in found] == ["LANDSLIDE", "YELLOW"]

    def test_are_handed_to_emergency_with_all_it_needs(self, county: County) -> None:
        name = raised(county, site(county)).name
        ((payload,),) = rows(
            county, "SELECT payload FROM mesh_outbox WHERE subject LIKE '%hazardWarning.raised' "
            "OR subject LIKE '%hazard_warning.raised'",
        )  # fmt: skip
        event = pb.HazardWarningRaised.FromString(bytes(payload)).hazard_warning
        assert (event.name, event.division, event.grade) == (name, DIVISION, W.GRADE_YELLOW)
        assert (event.rainfall_mm, event.displacement_mm, event.threatened_people) == (120, 8, 37)
        assert event.location.latitude == HERE["latitude"]

    def test_rise_in_grade_and_are_lifted(self, county: County) -> None:
        of = site(county)
        name = raised(county, of).name
        graver = pb.AdjustHazardWarningRequest(
            name=name, grade=W.GRADE_RED, rainfall_mm=180, displacement_mm=30
        )
        assert county.call("inspector", graver).grade == W.GRADE_RED
        county.call("county", pb.LiftHazardWarningRequest(name=name))
        assert refusal(county, "county", graver) == "ACTION_NOT_ALLOWED"
        assert raised(county, of).state == W.STATE_RAISED

    def test_are_one_for_each_site(self, county: County) -> None:
        of = site(county)
        raised(county, of)
        with pytest.raises(errors.AlreadyExists):
            raised(county, of)
        raised(county, site(county))

    def test_are_raised_by_the_county_on_its_own_site(self, county: County) -> None:
        of, other = site(county), site(county)
        wanted = {"hazard_site": of, "grade": W.GRADE_BLUE}
        request = pb.RaiseHazardWarningRequest(parent=PARENT, hazard_warning=wanted)
        assert refusal(county, "village", request) == "FORBIDDEN"
        with pytest.raises(errors.Invalid, match="watch_record"):
            raised(county, of, watch_record=patrol(county, other, 1).name)
