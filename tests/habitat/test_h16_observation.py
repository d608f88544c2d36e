"""H-16 观测站点: stations are compared with others, and what is wrong with one is looked at and closed."""

from typing import Any

import pytest

from mesh import errors
from services.habitat import intake, readings
from tests.county import PHOTO, County
from tests.habitat.people import PARENT, before, refusal
from tests.habitat.test_h11_sources import INSTRUMENTS, station
from tests.habitat.test_readings import HOUR, MIDNIGHT
from village.habitat.v1 import figure_pb2, reading_pb2, station_pb2
from village.habitat.v1 import observation_pb2 as pb

A = pb.Anomaly
COD: dict[str, Any] = {"factor": "w01018", "low": 0, "high": 500, "interval_s": 3600}


def second(county: County, **fields: object) -> str:
    return str(station(county, device_number="360423100201000000WQ0002", title="比对站", **fields).name)


def compared(county: County, **fields: object) -> pb.StationComparison:
    wanted = {
        "factor": "w01018", "compare_time": before(county, hours=1), "value": 11, "reference_value": 10,
        "tolerance_percent": 10, "basis": "HJ 915.3", **fields,
    }  # fmt: skip
    if not fields.keys() & {"station", "reference_station"}:
        wanted |= {"station": station(county).name, "reference_station": second(county)}
    request = pb.CreateStationComparisonRequest(parent=PARENT, station_comparison=wanted)
    made: pb.StationComparison = county.call("county", request)
    return made


def anomaly(county: County, who: str = "village", **fields: object) -> str:
    wanted = {"kind": A.KIND_DAMAGED, "description": "探头被泥覆盖", **fields}
    if "station" not in fields:
        wanted["station"] = station(county).name
    return str(county.call(who, pb.ReportAnomalyRequest(parent=PARENT, anomaly=wanted)).name)


def readings_of(county: County, of: str, hours: range, every_s: int = 3600) -> None:
    """Valid readings of one factor in those hours of the day that begins at MIDNIGHT."""
    row = county.store.row(county.store.codec(station_pb2.Station), of)
    assert row is not None
    times = [MIDNIGHT + HOUR * h + 1000 * s for h in hours for s in range(0, 3600, every_s)]
    given = reading_pb2.Series(
        factor="w01018", times_ms=times, values=[10.0 + n % 7 for n in range(len(times))]
    )
    intake.of(county.store).take(row.message, [given], county.now)


def uptime(county: County, **period: Any) -> tuple[float, float, str]:
    asked = figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-16.4"], **period)
    (found,) = county.call("county", asked).figures
    return found.numerator, found.denominator, found.value.value


class TestUptime:
    """MIDNIGHT is that of the 2nd of March, a Monday on which the clock stands at 10:00."""

    def test_is_valid_hours_out_of_those_expected(self, county: County) -> None:
        of = station(county, instruments=[COD]).name
        county.pass_time(hours=15)
        readings_of(county, of, range(18))
        readings.sum_days(county.store, county.now)
        assert uptime(county) == (18, 24, "75.00")

    def test_counts_an_hour_of_which_three_quarters_came(self, county: County) -> None:
        of = station(county, instruments=[{**COD, "interval_s": 60}]).name
        county.pass_time(hours=15)
        readings_of(county, of, range(2), 60)
        readings_of(county, of, range(2, 4), 90)  # 40 of 60
        readings.sum_days(county.store, county.now)
        assert uptime(county) == (2, 24, "8.33")

    def test_falls_on_days_on_which_nothing_came(self, county: County) -> None:
        of = station(county, instruments=[COD]).name
        county.pass_time(hours=15)
        readings_of(county, of, range(24))
        readings.sum_days(county.store, county.now)
        assert readings.note_silent_days(county.store, county.now) == 0
        county.pass_time(days=2)
        assert readings.note_silent_days(county.store, county.now) == 2
        readings.sum_days(county.store, county.now)
        assert readings.note_silent_days(county.store, county.now) == 0
        assert uptime(county) == (24, 72, "33.33")
        second = MIDNIGHT // 1000 + 86_400
        assert uptime(county, start_time={"seconds": second}) == (0, 48, "0.00")
        assert uptime(county, end_time={"seconds": second}) == (24, 24, "100.00")

    def test_leaves_out_when_the_station_was_out_of_service(self, county: County) -> None:
        of = station(county, instruments=[COD]).name
        back = {"seconds": MIDNIGHT // 1000 + 6 * 3600}
        change = station_pb2.UpdateStationRequest(name=of, station={"out_of_service_until": back})
        county.call("county", change)
        county.pass_time(hours=15)
        readings_of(county, of, range(24))
        readings.sum_days(county.store, county.now)
        assert uptime(county) == (18, 18, "100.00")


class TestComparisons:
    def test_say_by_how_much_a_station_differs(self, county: County) -> None:
        first = compared(county)
        assert (first.deviation_percent, first.passed) == (pytest.approx(10), True)
        pair = {"station": first.station, "reference_station": first.reference_station}
        assert not compared(county, value=7, **pair).passed
        found = county.call("county", figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-16"])).figures
        assert [(f.value.value, f.unit) for f in found[:2]] == [("50.00", "%"), ("20.00", "百分点")]

    def test_are_of_two_stations_that_measure_the_factor(self, county: County) -> None:
        one = station(county).name
        other = second(county, instruments=[i for i in INSTRUMENTS if i["factor"] != "w01018"])
        with pytest.raises(errors.Invalid, match="factor"):
            compared(county, station=one, reference_station=other)
        with pytest.raises(errors.Invalid, match="reference_value"):
            compared(county, station=one, reference_station=one)
        with pytest.raises(errors.Invalid, match="reference_station"):
            compared(county, station=one, reference_station=f"{PARENT}/stations/none")
        with pytest.raises(errors.Invalid, match="reference_value"):
            compared(county, station=one, reference_station=other, reference_value=0)


class TestAnomalies:
    def test_are_reported_looked_at_and_closed_by_another(self, county: County) -> None:
        name = anomaly(county)
        looked = pb.CheckAnomalyRequest(name=name, cause=A.CAUSE_PEOPLE, evidence=[PHOTO])
        assert county.call("county", looked).state == A.STATE_CHECKED
        close = pb.CloseAnomalyRequest(name=name)
        assert refusal(county, "county", close) == "FORBIDDEN"
        county.pass_time(hours=6)
        closed = county.call("county_2", close)
        assert (closed.state, closed.open_hours, closed.HasField("due_time")) == (A.STATE_CLOSED, 6, False)

    def test_are_not_closed_unseen_and_seeing_shows_something(self, county: County) -> None:
        name = anomaly(county)
        assert refusal(county, "county", pb.CloseAnomalyRequest(name=name)) == "ACTION_NOT_ALLOWED"
        blind = pb.CheckAnomalyRequest(name=name, cause=A.CAUSE_POWER)
        assert refusal(county, "village", blind) == "INVALID"

    def test_that_nobody_looks_at_rise(self, county: County) -> None:
        name = anomaly(county)
        county.pass_time(days=4)
        county.hosted.tick()
        late = county.call("county", pb.GetAnomalyRequest(name=name))
        assert (late.overdue, late.escalation_level > 0) == (True, True)

    def test_are_told_by_the_device_too_and_of_the_own_township(self, county: County) -> None:
        anomaly(county, "device", kind=A.KIND_SILENT)
        (kept,) = county.call("county", pb.ListAnomaliesRequest(parent=PARENT)).anomalies
        wanted = {"station": kept.station, "kind": A.KIND_SITE}
        request = pb.ReportAnomalyRequest(parent=PARENT, anomaly=wanted)
        assert refusal(county, "other_town", request) == "FORBIDDEN"
        with pytest.raises(errors.Invalid, match=r"anomaly\.station"):
            anomaly(county, station=f"{PARENT}/stations/none")
