"""Figures of reports (统计, A.8): numerator, denominator and rounding stated; counted as of a cut-off."""

import datetime
from typing import Any

import pytest

from mesh import errors, resources
from services.habitat import figures
from tests.county import REGION, County
from tests.loop import PARENT, file, reach, take
from village.habitat.v1 import report_pb2 as pb

ELSEWHERE = "360423101200"


def compute(county: County, who: str = "county", **fields: Any) -> Any:
    return county.call(who, pb.ComputeReportFiguresRequest(**{"parent": PARENT, **fields}))


def counts(county: County, who: str = "county", **fields: Any) -> tuple[int, ...]:
    """(reported, accepted, closed, on time, reworked)"""
    f = compute(county, who, **fields)
    return f.reported_count, f.accepted_count, f.closed_count, f.on_time_count, f.reworked_count


def shown(rate: Any) -> tuple[int, int, str]:
    return rate.numerator, rate.denominator, rate.percent.value


class TestRate:
    @pytest.mark.parametrize(
        ("numerator", "denominator", "percent"),
        [
            (6025, 6343, "94.99"),  # Wuning; printed as 94.56 (A.8)
            (6001, 6572, "91.31"),  # Xingning
            (5998, 6343, "94.56"),
            (1, 800, "0.13"),  # 0.125: half up, not half even
            (3, 800, "0.38"),  # 0.375
            (1, 1600, "0.06"),  # 0.0625
            (0, 7, "0.00"),
            (7, 7, "100.00"),
            (2, 3, "66.67"),
        ],
    )
    def test_is_rounded_half_up_to_two_decimals(self, numerator: int, denominator: int, percent: str) -> None:
        assert shown(figures.rate(numerator, denominator)) == (numerator, denominator, percent)

    def test_of_nothing_has_no_percent(self) -> None:
        rate = figures.rate(0, 0)
        assert not rate.HasField("percent")
        assert (rate.numerator, rate.denominator) == (0, 0)


class TestComputeReportFigures:
    def test_of_no_reports_are_zero_without_percentages(self, county: County) -> None:
        found = compute(county)
        assert counts(county) == (0, 0, 0, 0, 0)
        assert not found.closing_rate.HasField("percent")
        assert resources.moment(found.cut_off_time) == county.now

    def test_count_each_by_what_had_happened_at_the_cut_off(self, county: County) -> None:
        start = county.now
        closed, reworked = file(county).name, file(county).name
        file(county, division=ELSEWHERE, category=pb.Report.CATEGORY_SEWAGE)
        duplicate = file(county).name
        take(county, "mark_duplicate", duplicate, duplicate_of=closed)

        county.pass_time(hours=1)
        for name in (closed, reworked):
            take(county, "accept", name)
            for verb in ("assign", "start", "rectify"):
                take(county, verb, name)
        county.pass_time(hours=1)
        take(county, "send_back", reworked)
        county.pass_time(hours=1)
        for verb in ("verify", "send_feedback", "close"):
            take(county, verb, closed)

        def hours(n: float) -> Any:
            return resources.stamp(start + datetime.timedelta(hours=n))

        assert counts(county) == (4, 2, 1, 1, 1)
        assert counts(county, cut_off_time=hours(3 + 8 * 24)) == (4, 2, 1, 1, 1)
        assert counts(county, cut_off_time=hours(2.5 + 8 * 24)) == (4, 2, 0, 0, 1)
        assert counts(county, cut_off_time=hours(1.5)) == (4, 2, 0, 0, 0)
        assert counts(county, cut_off_time=hours(0.5)) == (4, 0, 0, 0, 0)
        assert counts(county, cut_off_time=hours(-1)) == (0, 0, 0, 0, 0)
        assert counts(county, start_time=hours(0.5)) == (0, 0, 0, 0, 0)
        assert counts(county, start_time=hours(0)) == (4, 2, 1, 1, 1)
        assert counts(county, category=pb.Report.CATEGORY_SEWAGE) == (1, 0, 0, 0, 0)
        assert counts(county, division=ELSEWHERE) == (1, 0, 0, 0, 0)
        assert counts(county, division="360423100") == (3, 2, 1, 1, 1)

        found = compute(county)
        assert shown(found.acceptance_rate) == (2, 4, "50.00")
        assert shown(found.closing_rate) == (1, 2, "50.00")
        assert shown(found.closing_rate_of_reported) == (1, 4, "25.00")
        assert shown(found.on_time_rate) == (1, 1, "100.00")
        assert shown(found.rework_rate) == (1, 2, "50.00")
        assert compute(county, cut_off_time=hours(2)).cut_off_time == hours(2)

    def test_do_not_call_on_time_what_missed_a_limit_on_the_way(self, county: County) -> None:
        late, early = file(county).name, reach(county, "CLOSED").name
        county.pass_time(days=2)
        for verb in ("accept", "assign", "start", "rectify", "verify", "send_feedback", "close"):
            take(county, verb, late)
        assert counts(county) == (2, 2, 2, 1, 0)
        assert shown(compute(county).on_time_rate) == (1, 2, "50.00")
        assert county.row(early).message.close_time != county.row(late).message.close_time

    def test_of_a_township_are_its_own(self, county: County) -> None:
        file(county)
        file(county, division=ELSEWHERE)
        assert counts(county, "town")[0] == 1
        assert counts(county, "village")[0] == 1
        assert counts(county, "other_town")[0] == 1
        assert counts(county, "town", division=ELSEWHERE)[0] == 0
        assert counts(county, "auditor")[0] == 2

    def test_are_not_for_residents_nor_for_other_regions(self, county: County) -> None:
        with pytest.raises(errors.Forbidden):
            compute(county, "resident")
        for parent in ("regions/360424", "regions/360400", "regions/360000"):
            with pytest.raises(errors.Forbidden):
                compute(county, parent=parent)
        assert compute(county, parent=f"regions/{REGION}").reported_count == 0
