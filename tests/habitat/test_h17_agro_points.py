"""H-17 农业生态环境监测“一张网”: points and what is found there, the province's advice, training."""

import pytest

from mesh import errors
from tests.county import County
from tests.habitat.people import DIVISION, HERE, PARENT, before, refusal, with_province
from village.habitat.v1 import agro_point_pb2 as pb
from village.habitat.v1 import figure_pb2

CADMIUM = {"factor": "x-cd", "value": 0.25, "unit": "mg/kg", "limit": 0.3, "basis": "GB 15618-2018"}
PH = {"factor": "x-ph", "value": 6.1}
S = pb.TrainingSession


@pytest.fixture
def county(county: County) -> County:
    return with_province(county)


def point(county: County, **fields: object) -> str:
    wanted = {
        "division": DIVISION, "title": "北岸耕地点", "medium": pb.AgroPoint.MEDIUM_SOIL, "location": HERE,
        "active": True, **fields,
    }  # fmt: skip
    return str(county.call("county", pb.CreateAgroPointRequest(parent=PARENT, agro_point=wanted)).name)


def sample(county: County, of: str, *findings: object, **fields: object) -> pb.AgroSample:
    wanted = {"agro_point": of, "take_time": before(county, days=1), "findings": findings, **fields}
    made: pb.AgroSample = county.call("county", pb.CreateAgroSampleRequest(parent=PARENT, agro_sample=wanted))
    return made


def session(county: County) -> str:
    wanted = {"topic": "化肥减量", "division": DIVISION, "plan_time": before(county, days=-3), "places": 40}
    request = pb.PlanTrainingSessionRequest(parent=PARENT, training_session=wanted)
    return str(county.call("county", request).name)


class TestPoints:
    def test_exceed_where_a_limit_is_stated(self, county: County) -> None:
        of = point(county)
        assert not sample(county, of, CADMIUM, PH).exceeding
        assert not sample(county, of, {**CADMIUM, "value": 0.3}).exceeding
        over = sample(county, of, {**CADMIUM, "value": 0.31}, PH)
        assert (over.exceeding, list(over.exceeding_factors)) == (True, ["x-cd"])
        sample(county, of, PH)
        (rate, _) = county.call(
            "county", figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-17"])
        ).figures
        assert (rate.numerator, rate.denominator, rate.value.value) == (1, 3, "33.33")

    def test_in_use_are_counted(self, county: County) -> None:
        point(county)
        point(county, active=False)
        asked = figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-17.2"])
        assert county.call("county", asked).figures[0].value.value == "50.00"

    @pytest.mark.parametrize(
        ("findings", "field"),
        [
            ([{**CADMIUM, "basis": ""}], "agro_sample.findings[0].basis"),
            ([CADMIUM, {**PH, "basis": "GB 15618-2018"}], "agro_sample.findings[0].basis"),
            ([PH, PH], "agro_sample.findings"),
            ([], "agro_sample.findings"),
        ],
    )
    def test_have_findings_that_hold_together(
        self, county: County, findings: list[dict[str, object]], field: str
    ) -> None:
        with pytest.raises(errors.Invalid) as refused:
            sample(county, point(county), *findings)
        assert refused.value.violations[0][0].replace("[1]", "[0]") == field

    def test_are_of_the_county_and_sampled_before_now(self, county: County) -> None:
        with pytest.raises(errors.Invalid, match="agro_point"):
            sample(county, f"{PARENT}/agroPoints/none", PH)
        with pytest.raises(errors.Invalid, match="take_time"):
            sample(county, point(county), PH, take_time=before(county, days=-1))
        with pytest.raises(errors.Invalid, match="station"):
            point(county, station=f"{PARENT}/stations/none")


class TestAdviceAndTraining:
    def test_the_province_advises_and_anybody_reads_it(self, county: County) -> None:
        wanted = {"title": "酸化耕地改良", "text": "施用石灰调酸", "medium": pb.AgroPoint.MEDIUM_SOIL}
        request = pb.CreateFarmingAdviceRequest(parent=PARENT, farming_advice=wanted)
        assert refusal(county, "county", request) == "FORBIDDEN"
        name = county.call("province", request).name
        assert county.call("farm", pb.GetFarmingAdviceRequest(name=name)).HasField("issue_time")

    def test_a_session_is_held_and_then_evaluated(self, county: County) -> None:
        name = session(county)
        judged = pb.EvaluateTrainingSessionRequest(name=name, score=92)
        assert refusal(county, "county", judged) == "ACTION_NOT_ALLOWED"
        county.call("county", pb.HoldTrainingSessionRequest(name=name, attended=37))
        done = county.call("county", judged)
        assert (done.state, done.attended, done.score) == (S.STATE_EVALUATED, 37, 92)

    def test_one_that_was_held_is_not_cancelled(self, county: County) -> None:
        name = session(county)
        county.call("county", pb.HoldTrainingSessionRequest(name=name, attended=1))
        assert refusal(county, "county", pb.CancelTrainingSessionRequest(name=name)) == "ACTION_NOT_ALLOWED"
        assert refusal(county, "county", pb.CancelTrainingSessionRequest(name=session(county))) == "OK"
