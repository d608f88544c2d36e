"""Habitat across a province and a county (H-2, H-11, SM-4): readings stay and are asked for where they are;
days, alarms and figures go up."""

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from tests.mesh import PROVINCE, WUNING, Mesh
from tests.waiting import until
from village.habitat.v1 import reading_pb2 as pb

DAY = 86_400
PARENT = f"/habitat/v1/regions/{WUNING}"
STATION = f"regions/{WUNING}/stations/wq-1"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Mesh(tmp_path_factory.mktemp("mesh"), {WUNING: ("habitat",)}) as started:
        station = {
            "title": "盘溪水库自动站", "division": f"{WUNING}100201", "kind": "KIND_SOURCE_WATER",
            "location": {"latitude": 29.26, "longitude": 115.09},
            "standard": f"regions/{WUNING}/standards/gb-3838-2002", "standardClass": "Ⅲ",
            "instruments": [{"factor": "w01018", "unit": "mg/L", "low": 0, "high": 500, "intervalS": 3600}],
        }  # fmt: skip
        made = started.wuning.call(
            "POST", f"{PARENT}/stations?stationId=wq-1", station, token=started.wuning.token("KA")
        )
        assert made.status == 200, made.body
        yield started


def send(mesh: Mesh, times: list[int], values: list[float]) -> pb.StreamReadingsResponse:
    """By gRPC through the county's gateway."""
    message = pb.StreamReadingsRequest(parent=f"regions/{WUNING}", station=STATION)
    message.series.add(factor="w01018", times_ms=[1000 * t for t in times], values=values)
    token = mesh.wuning.token("KA")
    with grpc.insecure_channel(f"127.0.0.1:{mesh.wuning.port}") as channel:
        call = channel.stream_unary(
            "/village.habitat.v1.ReadingService/StreamReadings",
            pb.StreamReadingsRequest.SerializeToString, pb.StreamReadingsResponse.FromString,
        )  # fmt: skip
        found: pb.StreamReadingsResponse = call(
            iter([message, message]), metadata=[("authorization", f"Bearer {token}")], timeout=20
        )
    return found


def at_province(mesh: Mesh, path: str) -> Any:
    found = mesh.province.call("GET", path, token=mesh.province.token("PA"))
    assert found.status == 200, found.body
    return found


class TestReadings:
    def test_stay_with_the_county_and_are_asked_for_there(self, mesh: Mesh) -> None:
        yesterday = int(time.time()) // DAY * DAY - DAY
        found = send(mesh, [yesterday + 3600 * n for n in range(3)], [11.0, 12.0, 13.0])
        assert (found.taken_count, found.repeated_count) == (3, 3)
        asked = at_province(mesh, f"/habitat/v1/{STATION}/readings?factor=w01018")
        assert asked.served_by == WUNING
        assert [r["value"] for r in asked.body["readings"]] == [11.0, 12.0, 13.0]
        assert mesh.province.rows("SELECT count(*) FROM readings") == [(0,)]

    def test_of_a_day_that_is_over_go_up_as_its_figures(self, mesh: Mesh) -> None:
        path = f"/habitat/v1/regions/{PROVINCE}/stationDays"
        until(lambda: at_province(mesh, path).body.get("stationDays"), 30)
        days = at_province(mesh, path).body["stationDays"]
        assert {day["station"] for day in days} == {STATION}
        assert sum(int(day["count"]) for day in days) == 3

    def test_beyond_the_limit_raise_an_exceedance_that_the_province_sees(self, mesh: Mesh) -> None:
        now = int(time.time()) - 600
        send(mesh, [now, now + 60, now + 120, now + 180], [30.0, 31.0, 32.0, 33.0])
        path = f"/habitat/v1/regions/{PROVINCE}/exceedances"

        def seen() -> Any:
            found = at_province(mesh, path).body.get("exceedances", [])
            return [e for e in found if e["state"] == "STATE_CONFIRMED"]

        (one,) = until(seen, 30)
        assert (one["station"], one["factor"], one["limit"]) == (STATION, "w01018", 20)


class TestFigures:
    def test_are_computed_at_the_province_from_its_copies(self, mesh: Mesh) -> None:
        for n, condition in enumerate(("CONDITION_GOOD", "CONDITION_CLOSED")):
            toilet = {
                "title": f"公厕{n}", "division": f"{WUNING}100201", "seats": 4, "condition": condition,
                "treatment": "TREATMENT_SEWER", "location": {"latitude": 29.26, "longitude": 115.09},
            }  # fmt: skip
            made = mesh.wuning.call("POST", f"{PARENT}/toilets", toilet, token=mesh.wuning.token("KA"))
            assert made.status == 200, made.body
        path = f"/habitat/v1/regions/{PROVINCE}/figures:compute?ids=H-7.1"

        def computed() -> Any:
            (found,) = at_province(mesh, path).body["figures"]
            return found if found["denominator"] == 2 else None

        found = until(computed, 20)
        assert (found["numerator"], found["value"]["value"]) == (1, "50.00")

    def test_and_the_map_is_drawn_from_them(self, mesh: Mesh) -> None:
        found = at_province(mesh, f"/habitat/v1/regions/{PROVINCE}/map:draw?layers=stations&layers=toilets")
        assert {f["properties"]["layer"] for f in found.body["features"]} == {"stations", "toilets"}
