"""H-14 质量控制: blanks, duplicates and spikes are held against a tolerance that was issued, and one that
fails puts the results beside it in doubt."""

import pytest

from mesh import errors
from services.habitat import samples
from tests.county import County
from tests.habitat.people import PARENT, before, refusal
from tests.habitat.test_h13_samples import batch, received, reported, result
from village.habitat.v1 import figure_pb2
from village.habitat.v1 import sample_pb2 as pb

Q = pb.QualityControl
TOLERANCE = {
    "blank_lod_multiple": 1, "relative_deviation_percent": 10, "recovery_low_percent": 80,
    "recovery_high_percent": 120, "basis": "实验室质量保证手册",
    "confidence": pb.QualityTolerance.CONFIDENCE_LOW,
}  # fmt: skip
GOOD = {"duplicate": {"first": 10, "second": 10.4}}
BAD = {"duplicate": {"first": 10, "second": 14}}


def tolerance(county: County, **fields: object) -> str:
    wanted = {**TOLERANCE, "effective_time": before(county, days=1), **fields}
    request = pb.CreateQualityToleranceRequest(parent=PARENT, quality_tolerance=wanted)
    return str(county.call("county", request).name)


def control(county: County, who: str = "lab", **fields: object) -> pb.QualityControl:
    wanted = {"batch": batch(county), "factor": "w01018", "control_time": before(county, hours=1), **fields}
    made: pb.QualityControl = county.call(
        who, pb.CreateQualityControlRequest(parent=PARENT, quality_control=wanted)
    )
    return made


class TestTheArithmetic:
    def test_deviation_is_of_the_sum_and_recovery_of_what_was_added(self) -> None:
        assert samples.relative_deviation(10, 10.4) == pytest.approx(1.960784)
        assert samples.relative_deviation(0, 0) == 0
        assert samples.recovery(5, 14, 10) == pytest.approx(90)


class TestH14:
    @pytest.mark.parametrize(
        ("stated", "passed"),
        [
            ({"blank": {"value": 0.1, "lod": 0.1}}, True),
            ({"blank": {"value": 0.11, "lod": 0.1}}, False),
            (GOOD, True),
            (BAD, False),
            ({"spike": {"unspiked": 5, "spiked": 13, "added": 10}}, True),
            ({"spike": {"unspiked": 5, "spiked": 12.9, "added": 10}}, False),
        ],
    )
    def test_a_control_keeps_its_tolerance_or_not(
        self, county: County, stated: dict[str, object], passed: bool
    ) -> None:
        tolerance(county)
        assert control(county, **stated).passed is passed

    def test_one_that_fails_flags_the_results_of_its_batch(self, county: County) -> None:
        tolerance(county)
        name = received(county)
        before_it = result(county, name)
        beside = result(county, name, factor="w01001", value=7.2, unit="")
        assert control(county, **BAD).flagged_results == 1
        later = result(county, received(county))
        found = county.call(
            "lab", pb.ListLabResultsRequest(parent=PARENT, filter="suspect = true")
        ).lab_results
        assert {r.name for r in found} == {before_it.name, later.name}
        assert not county.call("lab", pb.GetLabResultRequest(name=beside.name)).suspect

    def test_what_is_in_doubt_is_not_published(self, county: County) -> None:
        tolerance(county)
        name = reported(county)
        control(county, **BAD)
        assert refusal(county, "county", pb.PublishSampleRequest(name=name)) == "RESULTS_IN_DOUBT"

    def test_the_factor_s_own_tolerance_goes_before_that_of_all(self, county: County) -> None:
        tolerance(county)
        own = tolerance(county, factor="w01018", relative_deviation_percent=1)
        tolerance(county, factor="w01001", relative_deviation_percent=50)
        tolerance(county, factor="w01018", effective_time=before(county, days=-1))
        made = control(county, **GOOD)
        assert (made.tolerance, made.passed) == (own, False)

    def test_without_a_tolerance_nothing_passes(self, county: County) -> None:
        with pytest.raises(errors.Refused, match="no tolerance"):
            control(county, **GOOD)

    @pytest.mark.parametrize("stated", [{}, {**GOOD, "blank": {"value": 0, "lod": 1}}])
    def test_one_kind_is_stated(self, county: County, stated: dict[str, object]) -> None:
        tolerance(county)
        with pytest.raises(errors.Invalid, match="one of blank"):
            control(county, **stated)

    def test_another_laboratory_s_batch_is_not_vouched_for(self, county: County) -> None:
        tolerance(county)
        with pytest.raises(errors.Invalid, match=r"quality_control\.batch"):
            control(county, "lab_2", **GOOD)
        assert not county.call("lab_2", pb.ListQualityControlsRequest(parent=PARENT)).quality_controls

    def test_the_pass_rate_is_counted(self, county: County) -> None:
        tolerance(county)
        for stated in (GOOD, GOOD, BAD):
            control(county, **stated)
        (found,) = county.call(
            "county", figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-14"])
        ).figures
        assert (found.numerator, found.denominator, found.value.value) == (2, 3, "66.67")
