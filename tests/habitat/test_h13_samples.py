"""H-13 水样采集、报送、公示: a sample goes to a laboratory, its results come back, and the public reads
what the county approved."""

import pytest

from mesh import errors
from tests.county import LAB_2_UNIT, LAB_UNIT, County
from tests.habitat.people import PARENT, before, refusal
from tests.habitat.test_h02_one_map import drawn
from tests.habitat.test_h11_sources import source
from village.habitat.v1 import sample_pb2 as pb

S = pb.Sample
FOUND = {"factor": "w01018", "value": 11.2, "unit": "mg/L", "method": "HJ 828-2017"}


def taken(county: County, of: str = "", **fields: object) -> str:
    wanted = {
        "source": of or source(county).name, "point": "取水口", "take_time": before(county, hours=2),
        "sampler_post": "县疾控采样岗", "kind": S.KIND_ROUTINE, "laboratory": LAB_UNIT,
        "containers": [{"code": "W-1", "material": S.MATERIAL_GLASS, "volume_ml": 500}], **fields,
    }  # fmt: skip
    return str(county.call("village", pb.TakeSampleRequest(parent=PARENT, sample=wanted)).name)


def received(county: County, of: str = "", **fields: object) -> str:
    name = taken(county, of, **fields)
    county.call("lab", pb.ReceiveSampleRequest(name=name))
    return name


def batch(county: County, who: str = "lab", code: str = "B-1") -> str:
    asked = pb.ListAnalysisBatchesRequest(parent=PARENT, filter=f'code = "{code}"')
    if found := county.call(who, asked).analysis_batches:
        return str(found[0].name)
    request = pb.CreateAnalysisBatchRequest(parent=PARENT, analysis_batch={"code": code})
    return str(county.call(who, request).name)


def result(county: County, sample: str, who: str = "lab", **fields: object) -> pb.LabResult:
    wanted = {
        **FOUND, "sample": sample, "batch": batch(county, who), "measure_time": before(county, hours=1),
        **fields,
    }  # fmt: skip
    found = {k: v for k, v in wanted.items() if v is not None}
    made: pb.LabResult = county.call(who, pb.CreateLabResultRequest(parent=PARENT, lab_result=found))
    return made


def reported(county: County, of: str = "", **fields: object) -> str:
    name = received(county, of)
    result(county, name, **fields)
    county.call("lab", pb.TestSampleRequest(name=name))
    county.call("lab", pb.ReportSampleRequest(name=name))
    return name


class TestH13:
    def test_a_sample_goes_from_the_intake_to_the_public(self, county: County) -> None:
        name = received(county)
        result(county, name)
        result(county, name, factor="w20141", value=None, below_lod=True, lod=0.0003)
        county.call("lab", pb.TestSampleRequest(name=name))
        county.call("lab", pb.ReportSampleRequest(name=name))
        published = county.call("county", pb.PublishSampleRequest(name=name))
        assert published.state == S.STATE_PUBLISHED
        read = county.call("resident", pb.GetWaterBulletinRequest(name=published.bulletin))
        assert [(f.factor, f.value, f.below_lod) for f in read.results] == [
            ("w01018", 11.2, False), ("w20141", 0, True),
        ]  # fmt: skip

    def test_the_public_sees_about_where_and_nothing_else(self, county: County) -> None:
        of = source(county)
        name = reported(county, of.name)
        bulletin = county.call("county", pb.PublishSampleRequest(name=name)).bulletin
        at = county.call("neighbour", pb.GetWaterBulletinRequest(name=bulletin)).location
        assert [f["id"] for f in drawn(county, "resident", layers=["waterBulletins"])["features"]] == [
            bulletin
        ]
        assert (at.latitude, at.longitude) == (
            round(of.location.latitude, 2),
            round(of.location.longitude, 2),
        )
        for request in (
            pb.GetSampleRequest(name=name), pb.ListSamplesRequest(parent=PARENT),
            pb.ListLabResultsRequest(parent=PARENT),
        ):  # fmt: skip
            assert refusal(county, "resident", request) == "FORBIDDEN"

    def test_nothing_is_public_before_the_county_approves(self, county: County) -> None:
        name = reported(county)
        assert not county.call("resident", pb.ListWaterBulletinsRequest(parent=PARENT)).water_bulletins
        assert refusal(county, "lab", pb.PublishSampleRequest(name=name)) == "FORBIDDEN"
        assert refusal(county, "town", pb.PublishSampleRequest(name=name)) == "FORBIDDEN"

    def test_what_turns_out_wrong_is_withdrawn_and_why_is_said(self, county: County) -> None:
        bulletin = county.call("county", pb.PublishSampleRequest(name=reported(county))).bulletin
        request = pb.WithdrawWaterBulletinRequest(name=bulletin, reason="质控不合格，结果作废")
        assert refusal(county, "lab", request) == "FORBIDDEN"
        county.call("county", request)
        read = county.call("resident", pb.GetWaterBulletinRequest(name=bulletin))
        assert (len(read.results), read.withdraw_reason) == (0, "质控不合格，结果作废")

    def test_a_laboratory_has_what_is_its_own(self, county: County) -> None:
        mine, theirs = received(county), taken(county, laboratory=LAB_2_UNIT)
        result(county, mine)
        assert [s.name for s in county.call("lab", pb.ListSamplesRequest(parent=PARENT)).samples] == [mine]
        asked = pb.ListSamplesRequest(parent=PARENT, filter='kind = ROUTINE OR laboratory = "x"')
        assert [s.name for s in county.call("lab_2", asked).samples] == [theirs]
        assert not county.call("lab_2", pb.ListLabResultsRequest(parent=PARENT)).lab_results
        assert refusal(county, "lab_2", pb.GetSampleRequest(name=mine)) == "FORBIDDEN"
        assert refusal(county, "lab_2", pb.ReceiveSampleRequest(name=mine)) == "FORBIDDEN"
        with pytest.raises(errors.Forbidden):
            result(county, mine, "lab_2")
        assert len(county.call("county", pb.ListSamplesRequest(parent=PARENT)).samples) == 2

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"below_lod": True, "lod": 4}, "lab_result.value"),
            ({"value": None, "below_lod": True}, "lab_result.lod"),
            ({"batch": f"{PARENT}/analysisBatches/none"}, "lab_result.batch"),
        ],
    )
    def test_a_result_is_refused_with_the_field(
        self, county: County, fields: dict[str, object], field: str
    ) -> None:
        name = received(county)
        with pytest.raises(errors.Invalid) as refused:
            result(county, name, **fields)
        assert refused.value.violations[0][0] == field

    def test_results_are_written_while_the_sample_is_in_hand(self, county: County) -> None:
        name = taken(county)
        with pytest.raises(errors.Refused, match="receipt"):
            result(county, name)
        county.call("lab", pb.ReceiveSampleRequest(name=name))
        made = result(county, name)
        with pytest.raises(errors.AlreadyExists):
            result(county, name)
        change = pb.UpdateLabResultRequest(name=made.name, lab_result={"value": 12.0})
        assert county.call("lab", change).value == 12.0
        county.call("lab", pb.TestSampleRequest(name=name))
        county.call("lab", pb.ReportSampleRequest(name=name))
        assert refusal(county, "lab", change) == "SAMPLE_NOT_IN_HAND"

    def test_nothing_found_is_not_reported_and_what_is_spoilt_not_tested(self, county: County) -> None:
        name = received(county)
        county.call("lab", pb.TestSampleRequest(name=name))
        assert refusal(county, "lab", pb.ReportSampleRequest(name=name)) == "SAMPLE_HAS_NO_RESULT"
        spoilt = taken(county)
        county.call("lab", pb.RejectSampleRequest(name=spoilt, reason="瓶破损"))
        assert refusal(county, "lab", pb.TestSampleRequest(name=spoilt)) == "ACTION_NOT_ALLOWED"

    def test_what_was_not_taken_yet_or_elsewhere_is_refused(self, county: County) -> None:
        with pytest.raises(errors.Invalid, match=r"sample\.source"):
            taken(county, f"{PARENT}/waterSources/none")
        with pytest.raises(errors.Invalid, match=r"sample\.take_time"):
            taken(county, take_time=before(county, hours=-1))
