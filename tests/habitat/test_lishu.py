"""Lishu's volumes (梨树, 220322; H-21, H-22): 41 stations that report by the hour, and 1,064 machines, on a
node of its own in another province."""

import pathlib
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from services.habitat import intake, readings
from tests.county import County
from tests.habitat.test_readings import HOUR, MIDNIGHT
from village.habitat.v1 import machinery_pb2, one_map_pb2, station_pb2
from village.habitat.v1 import reading_pb2 as pb

LISHU = "220322"
PARENT = f"regions/{LISHU}"
STATIONS, MACHINES = 41, 1064
FACTORS = ("x-moisture", "x-soil-temp", "x-organic", "x-n", "x-p", "x-k", "x-ph", "x-pests")


@pytest.fixture(scope="module")
def lishu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[County]:
    folder: pathlib.Path = tmp_path_factory.mktemp("lishu")
    found = County(folder, f"sqlite:///{folder}/{{domain}}.db", region=LISHU)
    for n in range(STATIONS):
        station = {
            "title": f"{n + 1}号固定监测站", "division": f"{LISHU}{100 + n % 20}201", "kind": 4,
            "location": {"latitude": 43.2 + n / 500, "longitude": 124.3},
            "instruments": [{"factor": f, "low": 0, "high": 1000, "interval_s": 3600} for f in FACTORS],
        }  # fmt: skip
        request = station_pb2.CreateStationRequest(parent=PARENT, station=station, station_id=f"gd-{n + 1}")
        found.call("county", request)
    yield found
    found.close()


def day(lishu: County, n: int) -> None:
    """A station's readings of a whole day, eight factors by the hour."""
    name = f"{PARENT}/stations/gd-{n + 1}"
    row = lishu.store.row(lishu.store.codec(station_pb2.Station), name)
    assert row is not None
    times = [MIDNIGHT - 24 * HOUR + hour * HOUR for hour in range(24)]
    given = [
        pb.Series(factor=f, times_ms=times, values=[float(n + h % 5) for h in range(24)]) for f in FACTORS
    ]
    assert intake.of(lishu.store).take(row.message, given, lishu.now).taken == 24 * len(FACTORS)


class TestLishu:
    def test_a_day_of_41_stations_is_summed_up_and_drawn(self, lishu: County) -> None:
        for n in range(STATIONS):
            day(lishu, n)
        assert readings.sum_days(lishu.store, lishu.now) == STATIONS
        asked = pb.AggregateReadingsRequest(
            parent=PARENT, factor="x-moisture", step=pb.STEP_DAY,
            start_time={"seconds": MIDNIGHT // 1000 - 86_400}, end_time={"seconds": MIDNIGHT // 1000},
        )  # fmt: skip
        found = lishu.call("county", asked).aggregates
        assert len(found) == STATIONS
        assert sum(a.count for a in found) == STATIONS * 24
        drawn: Any = lishu.call("county", one_map_pb2.DrawMapRequest(parent=PARENT, layers=["stations"]))
        assert len(orjson.loads(drawn.data)["features"]) == STATIONS

    def test_a_thousand_machines_are_listed_page_by_page(self, lishu: County) -> None:
        for n in range(MACHINES):
            machine = {
                "title": f"{n + 1}号机", "division": f"{LISHU}{100 + n % 20}201", "number": f"吉03-{n:05d}",
                "owner_unit": "93220322TE5T00040Q", "working_width_m": 3.5, "kinds": [1],
            }  # fmt: skip
            lishu.call("county", machinery_pb2.CreateMachineRequest(parent=PARENT, machine=machine))
        seen, token = 0, ""
        while not seen or token:
            request = machinery_pb2.ListMachinesRequest(parent=PARENT, page_size=500, page_token=token)
            page = lishu.call("county", request)
            seen, token = seen + len(page.machines), page.next_page_token
        assert seen == MACHINES
