"""H-23 科技推广链和统筹部门监管: who brings science to farms, and tasks that several departments share."""

import pytest

from mesh import errors
from tests.county import COUNTY_UNIT, LAB_UNIT, TOWN_UNIT, County
from tests.habitat.people import DIVISION, HERE, PARENT, before, refusal
from tests.habitat.test_h18_farm_waste import farm
from village.habitat.v1 import extension_pb2 as pb
from village.habitat.v1 import figure_pb2

T = pb.JointTask
PARTS = [{"unit": COUNTY_UNIT, "duty": "核查地块"}, {"unit": TOWN_UNIT, "duty": "停止开挖"}]


def institution(county: County, unit: str = LAB_UNIT) -> str:
    wanted = {
        "title": "中国农业大学", "kind": pb.Institution.KIND_UNIVERSITY, "unit": unit,
        "experts": 30, "students": 50,
    }  # fmt: skip
    return str(county.call("county", pb.CreateInstitutionRequest(parent=PARENT, institution=wanted)).name)


def backyard(county: County, **fields: object) -> str:
    wanted = {
        "division": DIVISION, "title": "梨树科技小院", "kind": pb.ExtensionStation.KIND_BACKYARD,
        "location": HERE,
        "open_time": before(county, days=900), "active": True, **fields,
    }  # fmt: skip
    wanted.setdefault("institutions", [institution(county)] if "institutions" not in fields else [])
    request = pb.CreateExtensionStationRequest(parent=PARENT, extension_station=wanted)
    return str(county.call("county", request).name)


def task(county: County, parts: object = PARTS) -> str:
    wanted = {"title": "黑土地盗挖联合整治", "basis": "黑土地保护法", "parts": parts}
    return str(county.call("county", pb.OpenJointTaskRequest(parent=PARENT, joint_task=wanted)).name)


class TestTheChain:
    def test_goes_from_an_institution_to_a_farm(self, county: County) -> None:
        wanted = {
            "extension_station": backyard(county), "farm": farm(county), "technique": "秸秆覆盖免耕",
            "area_mu": 60, "active": True,
        }  # fmt: skip
        request = pb.CreateDemonstrationHouseholdRequest(parent=PARENT, demonstration_household=wanted)
        made = county.call("county", request)
        assert made.division == DIVISION
        assert refusal(county, "county", request) == "ALREADY_EXISTS"
        assert (
            refusal(county, "other_town", pb.GetDemonstrationHouseholdRequest(name=made.name)) == "FORBIDDEN"
        )

    def test_refers_to_what_there_is(self, county: County) -> None:
        with pytest.raises(errors.Invalid, match=r"institutions\[1\]"):
            backyard(county, institutions=[institution(county), f"{PARENT}/institutions/none"])
        wanted = {
            "extension_station": f"{PARENT}/extensionStations/none", "farm": farm(county), "technique": "x",
            "area_mu": 1,
        }  # fmt: skip
        request = pb.CreateDemonstrationHouseholdRequest(parent=PARENT, demonstration_household=wanted)
        assert refusal(county, "county", request) == "INVALID"
        request.demonstration_household.farm = f"{PARENT}/farms/none"
        assert refusal(county, "county", request) == "INVALID"

    def test_knows_each_institution_once_and_by_a_true_code(self, county: County) -> None:
        institution(county)
        with pytest.raises(errors.AlreadyExists):
            institution(county)
        with pytest.raises(errors.Invalid, match="check character"):
            institution(county, f"{LAB_UNIT[:17]}0")

    def test_keeps_nothing_of_people(self) -> None:
        kept = {f.name for f in pb.DemonstrationHousehold.DESCRIPTOR.fields}
        assert kept == {
            "name", "extension_station", "farm", "division", "technique", "area_mu", "active", "etag",
        }  # fmt: skip


class TestJointTasks:
    def test_are_finished_when_every_department_has_done_its_part(self, county: County) -> None:
        name = task(county)
        first = county.call("county", pb.CompleteJointTaskRequest(name=name, outcome="已核查 12 块"))
        assert (first.open_parts, first.parts[1].outcome) == (1, "")
        finish = pb.FinishJointTaskRequest(name=name)
        assert refusal(county, "county", finish) == "PARTS_STILL_OPEN"
        done = pb.CompleteJointTaskRequest(name=name, outcome="已停工")
        county.call("inspector", done, organisation=TOWN_UNIT)
        assert county.call("county", finish).state == T.STATE_FINISHED
        (found, _) = county.call(
            "county", figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-23"])
        ).figures
        assert (found.numerator, found.denominator) == (1, 1)

    def test_a_part_is_done_by_whose_it_is_and_once(self, county: County) -> None:
        request = pb.CompleteJointTaskRequest(name=task(county), outcome="已核查")
        assert refusal(county, "county", request, organisation=LAB_UNIT) == "NO_PART_OF_THE_CALLER"
        assert refusal(county, "county", request) == "OK"
        assert refusal(county, "county", request) == "NO_PART_OF_THE_CALLER"

    def test_what_a_department_is_said_to_have_done_is_not_believed(self, county: County) -> None:
        name = task(county, [{**PARTS[0], "outcome": "已办结"}, PARTS[1]])
        kept = county.call("county", pb.GetJointTaskRequest(name=name))
        assert (kept.open_parts, kept.parts[0].outcome) == (2, "")

    @pytest.mark.parametrize(
        "parts", [[PARTS[0]], [PARTS[0], PARTS[0]], [PARTS[0], {"unit": "x", "duty": "y"}]]
    )
    def test_have_departments_of_their_own(self, county: County, parts: object) -> None:
        with pytest.raises(errors.Invalid, match="parts"):
            task(county, parts)

    def test_that_take_too_long_rise(self, county: County) -> None:
        name = task(county)
        county.pass_time(days=40)
        county.hosted.tick()
        assert county.call("county", pb.GetJointTaskRequest(name=name)).overdue
