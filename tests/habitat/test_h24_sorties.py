"""H-24 卫星遥感、无人机: a sortie is planned, flown in its window, processed; its images are referred to;
tips go to whoever looks at them."""

import pytest

from mesh import errors
from tests.county import VILLAGE_UNIT, County
from tests.habitat.people import DIVISION, HERE, PARENT, before, refusal
from tests.habitat.test_h15_eco_units import KM2, SQUARE
from tests.habitat.test_h19_zones import zone
from village.habitat.v1 import sortie_pb2 as pb
from village.habitat.v1 import zone_pb2

S, T = pb.Sortie, pb.SurveyTip


def planned(county: County, **fields: object) -> pb.Sortie:
    wanted = {
        "title": "北岸裸土普查", "platform": S.PLATFORM_DRONE, "boundary": SQUARE, "resolution_m": 0.1,
        "window_start_time": before(county, hours=8), "window_end_time": before(county, hours=-8),
        "flight_permit": "CAAC-2026-0017", "unit": VILLAGE_UNIT, **fields,
    }  # fmt: skip
    made: pb.Sortie = county.call("county", pb.PlanSortieRequest(parent=PARENT, sortie=wanted))
    return made


def flown(county: County) -> str:
    name = str(planned(county).name)
    county.call("county", pb.FlySortieRequest(name=name, fly_time=before(county, hours=2), flown_km2=1))
    return name


def images(county: County, of: str, **fields: object) -> str:
    wanted = {
        "sortie": of, "uri": "s3://imagery-360423/2026/0302/ortho", "sha256": "ab" * 32,
        "capture_time": before(county, hours=2), "resolution_m": 0.1, "people_unidentifiable": True,
        "product": pb.ImageSet.PRODUCT_ORTHOPHOTO, **fields,
    }  # fmt: skip
    return str(county.call("county", pb.CreateImageSetRequest(parent=PARENT, image_set=wanted)).name)


def tip(county: County, **fields: object) -> pb.SurveyTip:
    wanted = {
        "image_set": images(county, flown(county)), "target": T.TARGET_APPEARANCE, "division": DIVISION,
        "location": HERE, "label": "垃圾堆放", "confidence": 0.83, **fields,
    }  # fmt: skip
    made: pb.SurveyTip = county.call("county", pb.CreateSurveyTipRequest(parent=PARENT, survey_tip=wanted))
    return made


class TestH24:
    def test_a_sortie_is_planned_flown_and_processed(self, county: County) -> None:
        assert planned(county).area_km2 == pytest.approx(KM2)
        name = flown(county)
        made = images(county, name)
        done = county.call("county", pb.ProcessSortieRequest(name=name, image_sets=[made]))
        assert (done.state, list(done.image_sets)) == (S.STATE_PROCESSED, [made])

    def test_its_history_is_read_by_who_sees_it(self, county: County) -> None:
        asked = pb.ListSortieStepsRequest(parent=flown(county))
        steps = county.call("county", asked).steps
        assert [(s.action, s.from_state, s.to_state) for s in steps] == [
            ("plan", "", "PLANNED"), ("fly", "PLANNED", "FLOWN"),
        ]  # fmt: skip
        first = county.call("county", pb.ListSortieStepsRequest(parent=asked.parent, page_size=1))
        asked.page_size, asked.page_token = 1, first.next_page_token
        assert [s.action for s in county.call("county", asked).steps] == ["fly"]
        for who in ("resident", "farm", "lab"):
            assert refusal(county, who, asked) == "FORBIDDEN"
        asked = pb.ListSortieStepsRequest(parent=f"{PARENT}/sorties/none")
        assert refusal(county, "county", asked) == "NOT_FOUND"

    @pytest.mark.parametrize(
        ("fields", "hours", "reason"),
        [
            ({}, 9, "FLIGHT_OUTSIDE_WINDOW"),
            ({}, -1, "INVALID"),
            ({"flight_permit": ""}, 2, "FLIGHT_NOT_PERMITTED"),
            ({"flight_permit": "", "platform": S.PLATFORM_SATELLITE}, 2, "OK"),
        ],
    )
    def test_it_is_flown_in_its_window_and_a_drone_with_a_permit(
        self, county: County, fields: dict[str, object], hours: float, reason: str
    ) -> None:
        name = planned(county, **fields).name
        request = pb.FlySortieRequest(name=name, fly_time=before(county, hours=hours), flown_km2=1)
        assert refusal(county, "county", request) == reason

    def test_images_are_stated_to_show_no_person(self, county: County) -> None:
        name = flown(county)
        with pytest.raises(errors.Invalid, match="people_unidentifiable"):
            images(county, name, people_unidentifiable=False)
        with pytest.raises(errors.Invalid, match="uri"):
            images(county, name, uri="s3://imagery/ortho?signature=x")

    def test_images_are_of_what_was_flown(self, county: County) -> None:
        with pytest.raises(errors.Invalid, match=r"image_set\.sortie"):
            images(county, planned(county).name)
        one, other = flown(county), flown(county)
        request = pb.ProcessSortieRequest(name=one, image_sets=[images(county, other)])
        assert refusal(county, "county", request) == "INVALID"

    def test_a_tip_on_a_zone_is_a_change_to_be_looked_at(self, county: County) -> None:
        made = tip(county, target=T.TARGET_ZONE, zone=zone(county))
        filed = county.call("village", zone_pb2.GetChangeTipRequest(name=made.change_tip))
        assert (filed.zone, filed.image_set, filed.confidence) == (made.zone, made.image_set, 0.83)
        assert filed.state == zone_pb2.ChangeTip.STATE_FILED

    def test_a_tip_on_appearance_is_an_event_only(self, county: County) -> None:
        assert tip(county).change_tip == ""
        assert not county.call("county", zone_pb2.ListChangeTipsRequest(parent=PARENT)).change_tips

    def test_a_tip_says_where_it_belongs(self, county: County) -> None:
        with pytest.raises(errors.Invalid, match=r"survey_tip\.zone"):
            tip(county, target=T.TARGET_ZONE)
        with pytest.raises(errors.Invalid, match=r"survey_tip\.zone"):
            tip(county, zone=zone(county))
        with pytest.raises(errors.Invalid, match="image_set"):
            tip(county, image_set=f"{PARENT}/imageSets/none")
