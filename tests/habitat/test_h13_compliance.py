"""H-13 水质评价: a sample's class and whether it keeps what holds for its source come from the standards,
when its results are complete, and are not entered."""

import pytest

from mesh import errors
from tests.county import County
from tests.habitat.people import DIVISION, HERE, PARENT
from tests.habitat.test_h13_samples import received, result
from tests.habitat.test_h14_quality import tolerance
from village.habitat.v1 import figure_pb2, station_pb2
from village.habitat.v1 import sample_pb2 as pb

L, K = pb.LabResult, station_pb2.WaterSource
UNLIMITED = {"factor": "w01014", "value": 186.0, "unit": "μS/cm"}


def water(county: County, kind: int = K.KIND_RESERVOIR, **fields: object) -> str:
    wanted = {"title": "水源", "division": DIVISION, "location": HERE, "kind": kind, **fields}
    request = station_pb2.CreateWaterSourceRequest(parent=PARENT, water_source=wanted)
    return str(county.call("county", request).name)


def reported(county: County, of: str, *found: dict[str, object]) -> pb.Sample:
    name = received(county, of)
    for each in found:
        result(county, name, **each)
    county.call("lab", pb.TestSampleRequest(name=name))
    answered: pb.Sample = county.call("lab", pb.ReportSampleRequest(name=name))
    return answered


def of_each(county: County, name: str) -> dict[str, int]:
    asked = pb.ListLabResultsRequest(parent=PARENT, filter=f'sample = "{name}"')
    return {r.factor: r.compliance for r in county.call("county", asked).lab_results}


class TestSamples:
    @pytest.mark.parametrize(
        ("value", "grade", "compliance"),
        [
            (20.5, "Ⅲ", L.COMPLIANCE_COMPLIANT),  # 四舍六入五留双: 20
            (20.51, "Ⅳ", L.COMPLIANCE_EXCEEDING),
            (41, "劣Ⅴ", L.COMPLIANCE_EXCEEDING),
        ],
    )
    def test_are_rounded_before_they_are_held_against_a_limit(
        self, county: County, value: float, grade: str, compliance: int
    ) -> None:
        made = reported(county, water(county), {"value": value})
        assert (made.grade, made.required_class, made.compliance) == (grade, "Ⅲ", compliance)
        assert made.standard == f"{PARENT}/standards/gb-3838-2002"

    def test_have_the_class_of_their_worst_factor(self, county: County) -> None:
        made = reported(
            county, water(county), {"value": 14}, {"factor": "w21003", "value": 1.26}, UNLIMITED,
            {"factor": "w20141", "value": None, "below_lod": True, "lod": 0.0003},
            {"factor": "x-faecal-coli", "value": 50000, "unit": "个/L"},
        )  # fmt: skip
        assert (made.grade, list(made.worst_factors)) == ("Ⅳ", ["w21003"])
        assert of_each(county, made.name) == {
            "w01018": L.COMPLIANCE_COMPLIANT, "w21003": L.COMPLIANCE_EXCEEDING,
            "w20141": L.COMPLIANCE_COMPLIANT,
            "w01014": L.COMPLIANCE_UNSPECIFIED, "x-faecal-coli": L.COMPLIANCE_UNSPECIFIED,
        }  # fmt: skip

    def test_without_a_limit_do_not_comply(self, county: County) -> None:
        made = reported(county, water(county), UNLIMITED)
        assert (made.grade, made.compliance) == ("", L.COMPLIANCE_UNSPECIFIED)
        (rate,) = county.call(
            "county", figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-13.4"])
        ).figures
        assert rate.denominator == 0

    @pytest.mark.parametrize(
        ("kind", "zone", "found", "grade", "compliance"),
        [
            (K.KIND_RIVER, True, {"value": 18}, "Ⅲ", L.COMPLIANCE_EXCEEDING),
            (K.KIND_RIVER, False, {"value": 18}, "Ⅲ", L.COMPLIANCE_COMPLIANT),
            (K.KIND_RIVER, False, {"factor": "w21011", "value": 0.04}, "Ⅱ", L.COMPLIANCE_COMPLIANT),
            (K.KIND_RESERVOIR, False, {"factor": "w21011", "value": 0.06}, "Ⅳ", L.COMPLIANCE_EXCEEDING),
            (K.KIND_GROUNDWATER, False, {"factor": "w21003", "value": 0.52}, "Ⅳ", L.COMPLIANCE_EXCEEDING),
            (K.KIND_RIVER, False, {"factor": "x-nitrate-n", "value": 11}, "", L.COMPLIANCE_EXCEEDING),
        ],
    )
    def test_are_held_against_what_holds_for_their_source(
        self, county: County, kind: int, zone: bool, found: dict[str, object], grade: str, compliance: int
    ) -> None:
        made = reported(county, water(county, kind, first_class_zone=zone), found)
        assert (made.grade, made.compliance) == (grade, compliance)

    def test_leave_out_what_is_in_doubt(self, county: County) -> None:
        tolerance(county)
        name = received(county, water(county))
        found = result(county, name, value=35)
        result(county, name, factor="w21003", value=0.1)
        control = {
            "batch": found.batch, "factor": "w01018", "control_time": found.measure_time,
            "duplicate": {"first": 10, "second": 20},
        }  # fmt: skip
        county.call("lab", pb.CreateQualityControlRequest(parent=PARENT, quality_control=control))
        county.call("lab", pb.TestSampleRequest(name=name))
        made = county.call("lab", pb.ReportSampleRequest(name=name))
        assert (made.grade, made.compliance) == ("Ⅰ", L.COMPLIANCE_COMPLIANT)

    def test_come_in_the_unit_of_their_limit(self, county: County) -> None:
        with pytest.raises(errors.Invalid, match=r"lab_result\.unit"):
            result(county, received(county, water(county)), value=11200, unit="μg/L")

    def test_tell_the_public_their_class(self, county: County) -> None:
        made = reported(county, water(county), {"value": 14})
        published = county.call("county", pb.PublishSampleRequest(name=made.name))
        read = county.call("resident", pb.GetWaterBulletinRequest(name=published.bulletin))
        assert (read.grade, read.compliance) == ("Ⅰ", L.COMPLIANCE_COMPLIANT)
        asked = figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-13.1", "H-13.4"])
        assert [f.value.value for f in county.call("county", asked).figures] == ["100.00", "100.00"]
