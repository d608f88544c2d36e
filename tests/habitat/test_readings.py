"""Readings (H-5, H-7, H-11, H-16; SM-4's first half): kept as they came, once, checked, corrected by
versions, summed up as they arrive, and a day's figures on the way up."""

import datetime
from typing import Any

import pytest

from mesh import errors, exports, rpc
from services.habitat import readings
from tests.county import REGION, County
from tests.habitat.people import PARENT, refusal
from tests.habitat.test_h11_sources import calibration, station
from tests.loop import rows
from village.habitat.v1 import reading_pb2 as pb

MIDNIGHT = 1_772_380_800_000  # 2026-03-02 00:00 in Beijing
MINUTE, HOUR = 60_000, 3_600_000


def send(county: County, *messages: pb.StreamReadingsRequest, who: str = "device", **claims: Any) -> Any:
    method = county.contract.methods["StreamReadings"]
    headers = {"authorization": f"Bearer {county.token(who, **claims)}"}
    raw = iter([m.SerializeToString() for m in messages])
    return method.response.FromString(county.chain.answer(rpc.Incoming(method.path, raw, headers)))


def message(of: str, **series: Any) -> pb.StreamReadingsRequest:
    """Readings of factors, a minute apart from midnight on; of each the values, or (times, values, flags)."""
    found = pb.StreamReadingsRequest(parent=PARENT, station=of)
    for factor, given in series.items():
        times, values, flags = given if isinstance(given, tuple) else (_minutes(len(given)), given, "")
        found.series.add(factor=factor, times_ms=times, values=values, flags=flags)
    return found


def _minutes(count: int) -> list[int]:
    return [MIDNIGHT + n * MINUTE for n in range(count)]


def listed(county: County, of: str, factor: str = "w01018", **more: Any) -> Any:
    return county.call("county", pb.ListReadingsRequest(parent=of, factor=factor, **more))


def summed(county: County, of: str, step: int, **more: Any) -> list[tuple[Any, ...]]:
    asked = {
        "start_time": {"seconds": MIDNIGHT // 1000},
        "end_time": {"seconds": MIDNIGHT // 1000 + 86400},
        **more,
    }
    request = pb.AggregateReadingsRequest(parent=PARENT, stations=[of], factor="w01018", step=step, **asked)
    found = county.call("county", request).aggregates
    return [
        (a.start_time.ToMilliseconds(), a.count, a.valid_count, round(a.mean, 6), a.min, a.max) for a in found
    ]


class TestStream:
    def test_is_kept_once_however_often_it_comes(self, county: County) -> None:
        of = station(county).name
        one = message(of, w01018=[10.0, 11.0, 12.0], w01003=[2.0, 2.1, 2.2])
        first = send(county, one)
        assert (first.taken_count, first.repeated_count, list(first.invalid)) == (6, 0, [])
        again = send(county, one, message(of, w01018=([MIDNIGHT, MIDNIGHT + 3 * MINUTE], [99.0, 13.0], "")))
        assert (again.taken_count, again.repeated_count) == (1, 7)
        assert [r.value for r in listed(county, of).readings] == [10.0, 11.0, 12.0, 13.0]
        assert summed(county, of, pb.STEP_HOUR) == [(MIDNIGHT, 4, 4, 11.5, 10.0, 13.0)]

    def test_says_what_is_not_valid_and_keeps_it(self, county: County) -> None:
        of = station(county).name
        found = send(county, message(of, w01018=(_minutes(4), [10.0, 900.0, 12.0, 13.0], "NNDN")))
        assert {i.reason: i.count for i in found.invalid} == {"RANGE": 1, "FLAG": 1}
        kept = [(r.measured, r.flag, r.invalid) for r in listed(county, of).readings]
        assert kept == [(10.0, "N", ""), (900.0, "N", "RANGE"), (12.0, "D", "FLAG"), (13.0, "N", "")]
        assert summed(county, of, pb.STEP_HOUR) == [(MIDNIGHT, 4, 2, 11.5, 10.0, 13.0)]

    def test_of_another_device_is_refused(self, county: County) -> None:
        of = station(county).name
        assert send(county, message(of, w01018=[1.0])).taken_count == 1
        with pytest.raises(errors.Forbidden):
            send(county, message(of, w01018=[1.0, 2.0]), sub="wq-0002")
        with pytest.raises(errors.Forbidden):
            send(county, message(of, w01018=[1.0, 2.0]), who="resident")
        assert len(listed(county, of).readings) == 1

    @pytest.mark.parametrize(
        ("series", "field"),
        [
            ({"w99999": [1.0]}, "series[0].factor"),
            ({"w01003": [1.0], "w01018": ([MIDNIGHT], [1.0, 2.0], "")}, "series[1].values"),
            ({"w01018": ([MIDNIGHT], [1.0], "NN")}, "series[0].values"),
            ({"w01018": ([MIDNIGHT + 40 * HOUR], [1.0], "")}, "series[0].times_ms"),
            ({"w01018": ([0], [1.0], "")}, "series[0].times_ms"),
            ({"w01018": ([MIDNIGHT], [1.0], "X")}, "series[0].flags"),
        ],
    )
    def test_names_what_it_cannot_take_and_keeps_what_came_before(
        self, county: County, series: dict[str, Any], field: str
    ) -> None:
        of = station(county).name
        with pytest.raises(errors.Invalid) as refused:
            send(county, message(of, w01018=[5.0, 6.0]), message(of, **series))
        assert refused.value.violations[0][0] == field
        assert [r.value for r in listed(county, of).readings] == [5.0, 6.0]
        assert not listed(county, of, "w01003").readings

    def test_of_a_station_that_is_not_there_is_refused(self, county: County) -> None:
        station(county)
        for name in (f"{PARENT}/stations/none", "regions/360424/stations/none"):
            with pytest.raises(errors.Refusal) as refused:
                send(county, message(name, w01018=[1.0]))
            assert refused.value.reason in ("NOT_FOUND", "FORBIDDEN", "INVALID")

    def test_out_of_order_and_late_is_added_up_the_same(self, county: County) -> None:
        of = station(county).name
        send(county, message(of, w01018=([MIDNIGHT + HOUR, MIDNIGHT + MINUTE], [4.0, 2.0], "")))
        send(county, message(of, w01018=([MIDNIGHT + 30 * MINUTE, MIDNIGHT - HOUR], [6.0, 8.0], "")))
        assert summed(county, of, pb.STEP_HOUR) == [
            (MIDNIGHT, 2, 2, 4.0, 2.0, 6.0), (MIDNIGHT + HOUR, 1, 1, 4.0, 4.0, 4.0),
        ]  # fmt: skip
        assert summed(county, of, pb.STEP_DAY) == [(MIDNIGHT, 3, 3, 4.0, 2.0, 6.0)]
        assert [r.value for r in listed(county, of).readings] == [8.0, 2.0, 6.0, 4.0]

    def test_of_years_lies_in_months(self, county: County) -> None:
        of = station(county).name
        times = [MIDNIGHT - n * 40 * 24 * HOUR for n in range(12)]
        assert send(county, message(of, w01018=(times, [1.0, 3.0] * 6, ""))).taken_count == 12
        if not county.store.sqlite:
            found = rows(county, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'readings'::regclass")
            assert 12 <= found[0][0] <= 14  # a day of Beijing may lie in two months of UTC
        asked = {"start_time": {"seconds": times[-1] // 1000}, "end_time": {"seconds": MIDNIGHT // 1000 - 1}}
        with pytest.raises(errors.Invalid, match="end_time"):
            summed(county, of, pb.STEP_WHOLE, **asked)
        asked["start_time"] = {"seconds": times[9] // 1000}
        assert [s[1:] for s in summed(county, of, pb.STEP_WHOLE, **asked)] == [(9, 9, 2.111111, 1.0, 3.0)]

    def test_while_it_was_calibrated_or_out_of_service_does_not_count(self, county: County) -> None:
        of = station(county).name
        now = int(county.now.timestamp() * 1000)
        calibration(county, of)
        found = send(county, message(of, w01018=([now - 30 * MINUTE, now], [9.0, 9.0], "")))
        assert [(i.reason, i.count) for i in found.invalid] == [("CALIBRATION", 1)]

    def test_bod_is_below_cod(self, county: County) -> None:
        of = station(county).name
        found = send(county, message(of, w01017=[3.0, 15.0], w01018=[10.0, 12.0]))
        assert [(i.reason, i.count) for i in found.invalid] == [("INCONSISTENT", 1)]

    def test_a_frozen_region_takes_nothing(self, county: County) -> None:
        of = station(county).name
        county.store.grants.freeze(REGION)
        with pytest.raises(errors.NotOwnedHere):
            send(county, message(of, w01018=[1.0]))
        assert rows(county, "SELECT count(*) FROM readings") == [(0,)]


class TestList:
    def test_gives_pages_and_spans(self, county: County) -> None:
        of = station(county).name
        send(county, message(of, w01018=[float(n) for n in range(7)]))
        found, token = [], ""
        while not found or token:
            page = listed(county, of, page_size=3, page_token=token)
            found, token = found + [r.value for r in page.readings], page.next_page_token
        assert found == [float(n) for n in range(7)]
        span = {
            "start_time": {"seconds": MIDNIGHT // 1000 + 60},
            "end_time": {"seconds": MIDNIGHT // 1000 + 180},
        }
        assert [r.value for r in listed(county, of, **span).readings] == [1.0, 2.0]

    def test_shows_a_neighbour_nothing(self, county: County) -> None:
        of = station(county).name
        send(county, message(of, w01018=[1.0]))
        assert (
            refusal(county, "other_town", pb.ListReadingsRequest(parent=of, factor="w01018")) == "FORBIDDEN"
        )
        asked = pb.AggregateReadingsRequest(
            parent=PARENT, factor="w01018", start_time={"seconds": MIDNIGHT // 1000},
            end_time={"seconds": MIDNIGHT // 1000 + 3600},
        )  # fmt: skip
        assert not county.call("other_town", asked).aggregates
        assert len(county.call("town", asked).aggregates) == 1


class TestCorrection:
    def correct(self, county: County, of: str, minute: int, **fields: Any) -> pb.ReadingCorrection:
        wanted = {
            "station": of, "factor": "w01018", "time": {"seconds": MIDNIGHT // 1000 + 60 * minute},
            "reason": "试剂过期", **fields,
        }  # fmt: skip
        request = pb.CorrectReadingRequest(parent=PARENT, reading_correction=wanted)
        made: pb.ReadingCorrection = county.call("county", request)
        return made

    def test_is_a_version_and_leaves_what_was_measured(self, county: County) -> None:
        of = station(county).name
        send(county, message(of, w01018=[10.0, 11.0, 12.0]))
        assert (
            self.correct(county, of, 1, value=20.0).number,
            self.correct(county, of, 1, value=14.0).number,
        ) == (1, 2)
        found = [(r.value, r.measured, r.corrections, r.invalid) for r in listed(county, of).readings]
        assert found == [(10.0, 10.0, 0, ""), (14.0, 11.0, 2, ""), (12.0, 12.0, 0, "")]
        for step in (pb.STEP_HOUR, pb.STEP_DAY, pb.STEP_WHOLE):
            assert summed(county, of, step) == [(MIDNIGHT, 3, 3, 12.0, 10.0, 14.0)]
        assert rows(county, "SELECT value FROM readings ORDER BY time_ms") == [(10.0,), (11.0,), (12.0,)]

    def test_may_say_that_a_reading_is_not_valid_and_that_one_is(self, county: County) -> None:
        of = station(county).name
        send(county, message(of, w01018=(_minutes(3), [10.0, 11.0, 900.0], "")))
        self.correct(county, of, 1)
        self.correct(county, of, 2, value=90.0)
        assert [r.invalid for r in listed(county, of).readings] == ["", "CORRECTED", ""]
        assert summed(county, of, pb.STEP_HOUR) == [(MIDNIGHT, 3, 2, 50.0, 10.0, 90.0)]

    def test_is_of_a_reading_that_is_there(self, county: County) -> None:
        of = station(county).name
        with pytest.raises(errors.Invalid, match=r"reading_correction\.time"):
            self.correct(county, of, 1, value=1.0)


class TestDay:
    def test_goes_up_when_it_is_over_and_again_when_something_comes_late(self, county: County) -> None:
        of = station(county, wanted_id="wq-1").name
        send(county, message(of, w01018=[10.0, 12.0], w01003=[2.0]))
        assert readings.sum_days(county.store, county.now) == 0
        county.pass_time(days=1)
        assert readings.sum_days(county.store, county.now) == 1
        assert readings.sum_days(county.store, county.now) == 0
        send(county, message(of, w01018=([MIDNIGHT + HOUR], [20.0], "")))
        assert readings.sum_days(county.store, county.now) == 1
        (day,) = county.call(
            "town", pb.ListStationDaysRequest(parent=PARENT, filter='date = "2026-03-02"')
        ).station_days
        assert day.name == f"{PARENT}/stationDays/wq-1-20260302"
        assert [(f.factor, f.count, f.mean) for f in day.factors] == [("w01003", 1, 2.0), ("w01018", 3, 14.0)]
        assert (day.count, day.valid_count, day.expected_count, day.etag) == (4, 4, 8 * 24, "2")
        subjects = [s for (s,) in rows(county, "SELECT subject FROM mesh_outbox ORDER BY id")]
        assert [s for s in subjects if "reading." in s] == []
        assert len([s for s in subjects if s.endswith(".summed")]) == 2


class TestMove:
    def test_takes_the_readings_along_and_leaves_none(self, county: County, tmp_path: Any) -> None:
        of = station(county).name
        send(county, message(of, w01018=[float(n) for n in range(5)]))
        (tmp_path / "other").mkdir()
        other = County(tmp_path / "other", f"sqlite:///{tmp_path}/other/{{domain}}.db")
        try:
            cursor, sums = "", exports.total(county.store, REGION)
            while True:
                asked, (kind, lines, cursor) = cursor, exports.page(county.store, REGION, cursor)
                exports.put(other.store, REGION, asked, (kind, lines, cursor))
                if not cursor:
                    break
            assert exports.total(other.store, REGION) == sums
            assert [r.value for r in listed(other, of).readings] == [0.0, 1.0, 2.0, 3.0, 4.0]
            exports.reduce(county.store, REGION)
            for table in ("readings", "reading_hours", "reading_days", "reading_series"):
                assert rows(county, f"SELECT count(*) FROM {table}") == [(0,)]
        finally:
            other.close()


def test_beijing_midnight_is_what_it_says() -> None:
    beijing = datetime.timezone(datetime.timedelta(hours=8))
    assert (
        datetime.datetime.fromtimestamp(MIDNIGHT / 1000, beijing).isoformat() == "2026-03-02T00:00:00+08:00"
    )
