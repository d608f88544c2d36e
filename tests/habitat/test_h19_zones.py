"""H-19 脆弱区和敏感区: a zone is found, assessed, delimited, watched and drawn again; tips on changes are
looked at by one and decided on by another."""

import pytest

from mesh import errors
from tests.county import PHOTO, County
from tests.habitat.people import DIVISION, HERE, PARENT, before, refusal, with_province
from tests.habitat.test_h15_eco_units import KM2, SQUARE
from village.habitat.v1 import figure_pb2
from village.habitat.v1 import zone_pb2 as pb

Z, T = pb.FragileZone, pb.ChangeTip


@pytest.fixture
def county(county: County) -> County:
    return with_province(county)


def zone(county: County) -> str:
    wanted = {"title": "北坡崩岗区", "kind": Z.KIND_SOIL_LOSS, "location": HERE}
    return str(county.call("county", pb.IdentifyFragileZoneRequest(parent=PARENT, fragile_zone=wanted)).name)


def assessed(county: County, name: str, index: float = 0.72) -> pb.FragileZone:
    wanted = {
        "zone": name, "index": index, "grade": Z.GRADE_SEVERE, "method": "RUSLE; 0.6-0.8 为重度",
        "assess_time": before(county, days=1),
    }  # fmt: skip
    request = pb.CreateZoneAssessmentRequest(parent=PARENT, zone_assessment=wanted)
    made = county.call("province", request).name
    found: pb.FragileZone = county.call(
        "province", pb.AssessFragileZoneRequest(name=name, zone_assessment=made)
    )
    return found


def tip(county: County, who: str = "village", **fields: object) -> str:
    wanted = {
        "source": T.SOURCE_PERSON, "division": DIVISION, "location": HERE, "description": "新挖山体",
        **fields,
    }  # fmt: skip
    return str(county.call(who, pb.FileChangeTipRequest(parent=PARENT, change_tip=wanted)).name)


class TestZones:
    def test_are_found_assessed_delimited_and_watched(self, county: County) -> None:
        name = zone(county)
        found = assessed(county, name)
        assert (found.state, found.index, found.grade) == (Z.STATE_ASSESSED, 0.72, Z.GRADE_SEVERE)
        drawn = county.call("province", pb.DelimitFragileZoneRequest(name=name, boundary=SQUARE))
        assert drawn.area_km2 == pytest.approx(KM2)
        county.call("province", pb.MonitorFragileZoneRequest(name=name))
        assert refusal(county, "province", pb.AdjustFragileZoneRequest(name=name)) == "INVALID"
        county.call("province", pb.AdjustFragileZoneRequest(name=name, reason="边界外扩"))
        again = assessed(county, name, 0.4)
        assert (again.state, again.index) == (Z.STATE_ASSESSED, 0.4)

    def test_are_not_delimited_before_they_are_assessed(self, county: County) -> None:
        request = pb.DelimitFragileZoneRequest(name=zone(county), boundary=SQUARE)
        assert refusal(county, "province", request) == "ACTION_NOT_ALLOWED"
        assert refusal(county, "county", request) == "FORBIDDEN"

    def test_are_assessed_by_an_assessment_of_their_own(self, county: County) -> None:
        one, other = zone(county), zone(county)
        made = assessed(county, one).assessment
        with pytest.raises(errors.Invalid, match="zone_assessment"):
            county.call("province", pb.AssessFragileZoneRequest(name=other, zone_assessment=made))

    def test_have_an_index_between_0_and_1(self, county: County) -> None:
        with pytest.raises(errors.Invalid, match=r"zone_assessment\.index"):
            assessed(county, zone(county), 1.1)


class TestTips:
    def test_are_looked_at_by_one_and_decided_on_by_another(self, county: County) -> None:
        name = tip(county)
        checked = county.call("county", pb.CheckChangeTipRequest(name=name, evidence=[PHOTO]))
        assert checked.state == T.STATE_CHECKED
        assert refusal(county, "county", pb.ConfirmChangeTipRequest(name=name)) == "FORBIDDEN"
        confirmed = county.call("county_2", pb.ConfirmChangeTipRequest(name=name))
        assert confirmed.state == T.STATE_CONFIRMED

    def test_are_not_decided_on_unseen_and_seeing_shows_something(self, county: County) -> None:
        name = tip(county)
        assert refusal(county, "county", pb.RejectChangeTipRequest(name=name)) == "ACTION_NOT_ALLOWED"
        assert refusal(county, "village", pb.CheckChangeTipRequest(name=name)) == "INVALID"

    def test_count_when_somebody_looked(self, county: County) -> None:
        tip(county)
        county.call("village", pb.CheckChangeTipRequest(name=tip(county), evidence=[PHOTO]))
        (found,) = county.call(
            "county", figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-19.1"])
        ).figures
        assert (found.numerator, found.denominator) == (1, 2)

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"zone": f"{PARENT}/fragileZones/none"}, "change_tip.zone"),
            ({"source": T.SOURCE_IMAGERY}, "change_tip.image_set"),
            ({"confidence": 0.9}, "change_tip.confidence"),
        ],
    )
    def test_are_refused_with_the_field(self, county: County, fields: dict[str, object], field: str) -> None:
        with pytest.raises(errors.Invalid) as refused:
            tip(county, **fields)
        assert refused.value.violations[0][0] == field

    def test_stay_in_their_township(self, county: County) -> None:
        name = tip(county)
        assert refusal(county, "other_town", pb.GetChangeTipRequest(name=name)) == "FORBIDDEN"
        with pytest.raises(errors.Forbidden):
            tip(county, "other_town")
