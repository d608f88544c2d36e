"""H-5 农村生活污水治理监测: a facility, its station, and how it ran in a month by what was measured."""

from typing import Any

import pytest

from mesh import errors
from tests.county import County
from tests.habitat.people import DIVISION, HERE, PARENT, refusal
from tests.habitat.test_h11_sources import station
from tests.habitat.test_readings import send
from village.habitat.v1 import figure_pb2
from village.habitat.v1 import sewage_pb2 as pb
from village.habitat.v1.reading_pb2 import StreamReadingsRequest

HOUR = 3_600_000
FEBRUARY = 1_769_875_200_000  # 2026-02-01 00:00 in Beijing
F, R = pb.SewageFacility, pb.OperationRating
INSTRUMENTS = [
    {"factor": factor, "unit": unit, "low": low, "high": 500, "interval_s": 3600}
    for factor, unit, low in (
        ("w00000", "m³/h", 0),
        ("w01018", "mg/L", 0),
        ("w21003", "mg/L", 0),
        ("w01010", "℃", -5),
    )
]


def facility(county: County, **fields: Any) -> F:
    wanted = {
        "title": "北岸污水处理站", "division": DIVISION, "location": HERE, "process": F.PROCESS_A2O,
        "design_m3_per_day": 48, "outlets": [{"code": "WS-1", "receiver": "修河"}], **fields,
    }  # fmt: skip
    made: F = county.call("town", pb.CreateSewageFacilityRequest(parent=PARENT, sewage_facility=wanted))
    return made


def rate(county: County, of: str, month: str = "2026-02") -> R:
    wanted = {"facility": of, "month": month}
    made: R = county.call("county", pb.RateOperationRatingRequest(parent=PARENT, operation_rating=wanted))
    return made


def measured(county: County, of: str, **series: list[float]) -> None:
    """Hourly values from the beginning of February on."""
    name = station(
        county, kind=2, subject=of, instruments=INSTRUMENTS, standard=f"{PARENT}/standards/gb-18918-2002",
        standard_class="一级A",
    ).name  # fmt: skip
    message = StreamReadingsRequest(parent=PARENT, station=name)
    for factor, values in series.items():
        times = [FEBRUARY + n * HOUR for n in range(len(values))]
        message.series.add(factor=factor, times_ms=times, values=values)
    send(county, message)


class TestH5:
    def test_a_month_is_rated_by_what_was_measured(self, county: County) -> None:
        of = facility(county).name
        # ran 640 of 672 hours; 60 hours beyond 50 mg/L of COD
        measured(county, of, w00000=[1.5] * 640 + [0.0] * 32, w01018=[40.0] * 612 + [60.0] * 60)
        found = rate(county, of)
        assert (found.running.numerator, found.running.denominator, found.running.percent.value) == (
            640,
            672,
            "95.24",
        )
        assert (found.compliance.numerator, found.compliance.denominator) == (612, 672)
        assert (found.treated_m3, found.design_m3, found.load_percent) == (960.0, 1344.0, 71.43)
        assert (found.grade, found.division) == (R.GRADE_GOOD, DIVISION)
        with pytest.raises(errors.AlreadyExists):
            rate(county, of)

    def test_ammonia_is_judged_by_the_water_s_temperature(self, county: County) -> None:
        of = facility(county).name
        warm, cold = [13.0] * 10, [11.0] * 10
        measured(county, of, w00000=[1.0] * 30, w21003=[7.0] * 30, w01010=warm + cold)
        found = rate(county, of)
        # 5 mg/L above 12 ℃, 8 below; the last ten hours cannot be judged
        assert (found.compliant_hours, found.measured_hours) == (10, 20)
        assert found.grade == R.GRADE_POOR

    def test_one_that_nobody_measured_says_so(self, county: County) -> None:
        found = rate(county, facility(county).name)
        assert (found.grade, found.compliance.HasField("percent")) == (R.GRADE_UNMEASURED, False)

    def test_a_month_is_not_rated_before_it_is_over(self, county: County) -> None:
        of = facility(county).name
        wanted = pb.RateOperationRatingRequest(
            parent=PARENT, operation_rating={"facility": of, "month": "2026-03"}
        )
        assert refusal(county, "county", wanted) == "MONTH_NOT_OVER"
        assert refusal(county, "town", wanted) == "FORBIDDEN"

    def test_a_rule_of_the_county_s_own_counts(self, county: County) -> None:
        rule = {
            "from_month": "2026-01", "basis": "武环字〔2026〕1号",
            "good_running_percent": 99, "fair_running_percent": 98,
            "good_compliance_percent": 99, "fair_compliance_percent": 98,
        }  # fmt: skip
        county.call("county", pb.IssueRatingRuleRequest(parent=PARENT, rating_rule=rule))
        of = facility(county).name
        measured(county, of, w00000=[1.0] * 650, w01018=[40.0] * 650)
        assert rate(county, of).grade == R.GRADE_POOR
        rule["fair_running_percent"] = 100
        with pytest.raises(errors.Invalid, match=r"rating_rule\.fair_running_percent"):
            county.call("county", pb.IssueRatingRuleRequest(parent=PARENT, rating_rule=rule))

    def test_an_operator_has_a_code_that_can_be(self, county: County) -> None:
        with pytest.raises(errors.Invalid, match=r"sewage_facility\.operator"):
            facility(county, operator="91360423TE5T000168")

    def test_figures_are_sums_of_the_ratings(self, county: County) -> None:
        one, two = facility(county).name, facility(county, title="下街污水处理站").name
        measured(county, one, w00000=[2.0] * 672, w01018=[40.0] * 672)
        rate(county, one)
        rate(county, two)
        found = county.call("county", figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-5"])).figures
        assert [(f.id, f.numerator, f.denominator, f.value.value) for f in found] == [
            ("H-5.1", 672, 1344, "50.00"), ("H-5.2", 672, 672, "100.00"), ("H-5.3", 1344, 2688, "50.00"),
        ]  # fmt: skip
