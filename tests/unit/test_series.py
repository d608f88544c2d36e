"""What is found about readings as they come, and what they come to."""

import math
from typing import Any

import pytest

from services.habitat import series
from services.habitat.series import DAY_MS, HOUR_MS, Arrival, Last
from village.habitat.v1.station_pb2 import Station


def judged(
    values: list[float], *, flags: str = "", last: Last | None = None, idle: Any = None, **of: Any
) -> list[str]:
    instrument = Station.Instrument(**{"factor": "w01018", "low": 0, "high": 100, "interval_s": 60, **of})
    times = [n * 60_000 for n in range(len(values))]
    found = series.judge(Arrival(instrument, times, values, flags, last, idle or {}))
    return [""] * len(values) if found is None else found


class TestJudge:
    @pytest.mark.parametrize(
        ("values", "of", "found"),
        [
            ([1, 2, 3], {}, ["", "", ""]),
            ([1, 101, -0.1, 100], {}, ["", "RANGE", "RANGE", ""]),
            ([1, math.nan, math.inf, 2], {}, ["", "NAN", "NAN", ""]),
            ([1, 9, 2], {"step": 5}, ["", "STEP", "STEP"]),
            ([1, 5, 9], {"step": 5}, ["", "", ""]),
            ([3, 3, 3, 3, 4], {"stuck": 3}, ["", "", "", "STUCK", ""]),
            ([1, 200, 4], {"step": 5}, ["", "RANGE", ""]),
        ],
    )
    def test_finds(self, values: list[float], of: dict[str, Any], found: list[str]) -> None:
        assert judged(values, **of) == found

    @pytest.mark.parametrize(
        ("flag", "valid"), [("N", True), ("S", True), ("T", True), *((f, False) for f in "FMDCB")]
    )
    def test_believes_what_a_device_says_of_itself(self, flag: str, valid: bool) -> None:
        assert judged([1, 2], flags=f"N{flag}") == ["", "" if valid else "FLAG"]

    def test_goes_on_from_the_reading_before(self) -> None:
        assert judged([9], last=Last(-1, 1, 1), step=5) == ["STEP"]
        assert judged([1, 1], last=Last(-1, 1, 2), stuck=3) == ["", "STUCK"]
        assert judged([1, 2], last=Last(-1, 1, 2), stuck=3) == ["", ""]

    def test_counts_nothing_while_the_instrument_was_not_measuring(self) -> None:
        assert judged([1, 2, 3], idle={"CALIBRATION": [(60_000, 120_000)]}) == ["", "CALIBRATION", ""]

    def test_holds_bod_below_cod_of_the_same_time(self) -> None:
        assert series.inconsistent([0, 1, 2], [3.0, 9.0, 9.0], {0: 9.0, 1: 9.0}) == ["", "INCONSISTENT", ""]
        assert series.inconsistent([0], [3.0], {0: 9.0}) is None


class TestLast:
    def test_counts_how_often_the_value_stood(self) -> None:
        assert series.last_of([0, 1, 2], [1.0, 2.0, 2.0], None) == Last(2, 2.0, 2)
        assert series.last_of([3, 4], [2.0, 2.0], Last(2, 2.0, 2)) == Last(4, 2.0, 4)
        assert series.last_of([3], [1.0], Last(2, 2.0, 2)) == Last(3, 1.0, 1)


class TestSums:
    def test_are_by_the_hour_and_of_valid_readings(self) -> None:
        times = [0, HOUR_MS - 1, HOUR_MS, 3 * HOUR_MS]
        found = series.sums(times, [1.0, 3.0, 5.0, 9.0], ["", "", "", "RANGE"], HOUR_MS)
        assert [(s.start, s.count, s.valid, s.total, s.low, s.high) for s in found] == [
            (0, 2, 2, 4.0, 1.0, 3.0), (HOUR_MS, 1, 1, 5.0, 5.0, 5.0), (3 * HOUR_MS, 1, 0, 0.0, 0.0, 0.0),
        ]  # fmt: skip

    def test_of_a_day_begin_at_midnight_in_beijing(self) -> None:
        midnight = DAY_MS - 8 * HOUR_MS  # 16:00 UTC
        found = series.sums([midnight - 1, midnight], [1.0, 2.0], None, DAY_MS)
        assert [s.start for s in found] == [midnight - DAY_MS, midnight]
