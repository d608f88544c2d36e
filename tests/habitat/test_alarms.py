"""SM-4 across readings and exceedances (H-5, H-11, H-13): valid values beyond the limit of the station's
class raise an exceedance and confirm it; normal ones end it; each counts once, whatever is started anew."""

from typing import Any

import pytest

from services.habitat import alarms, intake
from tests.county import County
from tests.habitat.people import PARENT
from tests.habitat.test_h11_sources import source, station
from tests.habitat.test_readings import HOUR, MIDNIGHT, message, send
from tests.loop import rows
from village.habitat.v1 import exceedance_pb2 as pb

E = pb.Exceedance


def measure(
    county: County, of: str, first: int, *values: float, factor: str = "w01018", flags: str = ""
) -> int:
    """Hourly values from an hour of the day on; how many were told of."""
    times = [MIDNIGHT + (first + n) * HOUR for n in range(len(values))]
    county.now = max(county.now, county.now.fromtimestamp(times[-1] / 1000 + 60, county.now.tzinfo))
    send(county, message(of, **{factor: (times, list(values), flags)}))
    return alarms.watch(county.store, county.now)


def exceedance(county: County) -> Any:
    found = county.call("county", pb.ListExceedancesRequest(parent=PARENT)).exceedances
    return found[-1] if found else None


@pytest.fixture
def of(county: County) -> str:
    return station(county, subject=source(county).name).name


class TestAlarms:
    def test_values_that_keep_the_limit_raise_nothing(self, county: County, of: str) -> None:
        assert measure(county, of, 0, 12.0, 20.4, 19.0) == 0
        assert exceedance(county) is None

    def test_one_beyond_is_suspected_and_several_confirm(self, county: County, of: str) -> None:
        assert measure(county, of, 0, 15.0, 26.0) == 1
        found = exceedance(county)
        assert (found.state, found.factor, found.value, found.limit) == (
            E.STATE_SUSPECTED,
            "w01018",
            26.0,
            20.0,
        )
        assert found.standard == f"{PARENT}/standards/gb-3838-2002"
        measure(county, of, 2, 27.0, 29.0, 28.0)
        found = exceedance(county)
        assert (found.state, found.worst_value) == (E.STATE_CONFIRMED, 29.0)

    def test_a_single_one_is_dismissed_by_the_next(self, county: County, of: str) -> None:
        measure(county, of, 0, 26.0, 12.0)
        assert exceedance(county).state == E.STATE_DISMISSED

    def test_oxygen_is_missed_from_below(self, county: County, of: str) -> None:
        measure(county, of, 0, 3.0, factor="w01009")
        found = exceedance(county)
        assert (found.side, found.limit) == (E.SIDE_BELOW, 5.0)

    def test_what_is_not_valid_or_has_no_limit_counts_for_nothing(self, county: County, of: str) -> None:
        assert measure(county, of, 0, 40.0, 40.5, flags="DM") == 0
        assert measure(county, of, 0, 4000.0, factor="w01014") == 0
        assert exceedance(county) is None

    def test_each_value_counts_once_also_for_the_next_process(self, county: County, of: str) -> None:
        measure(county, of, 0, 26.0)
        before = rows(county, "SELECT count(*) FROM mesh_outbox")
        intake._intakes.pop(county.store)
        assert alarms.watch(county.store, county.now) == 0
        assert measure(county, of, 0, 26.0) == 0
        assert rows(county, "SELECT count(*) FROM mesh_outbox") == before

    def test_what_one_process_left_the_next_looks_at(self, county: County, of: str) -> None:
        send(county, message(of, w01018=([MIDNIGHT], [26.0], "")))
        intake._intakes.pop(county.store)  # it ended between the readings and the alarm
        assert alarms.watch(county.store, county.now) == 1
        assert exceedance(county).state == E.STATE_SUSPECTED

    def test_a_station_without_a_standard_is_not_looked_at_again(self, county: County) -> None:
        bare = station(county, standard="", standard_class="").name
        assert measure(county, bare, 0, 900.0, 26.0) == 0
        marks = rows(county, "SELECT watched_ms FROM reading_series WHERE station = :s", s=bare)
        assert marks == [(MIDNIGHT + HOUR,)]

    def test_what_comes_days_late_raises_nothing(self, county: County, of: str) -> None:
        county.pass_time(days=3)
        send(county, message(of, w01018=([MIDNIGHT], [26.0], "")))
        assert alarms.watch(county.store, county.now) == 0

    def test_a_lake_has_limits_of_its_own(self, county: County) -> None:
        instruments = [{"factor": "w21011", "unit": "mg/L", "low": 0, "high": 10, "interval_s": 3600}]
        lake = station(county, subject=source(county).name, instruments=instruments)
        assert measure(county, lake.name, 0, 0.1, factor="w21011") == 1
        river = station(county, instruments=instruments, device_number="360423100201000000WQ0008")
        assert measure(county, river.name, 0, 0.1, factor="w21011") == 0
