"""What `villagemesh sample` lays beside the reports: village points, toilets, sewage facilities, and 41
stations with a week of readings. Separate, because it is places rather than stories; all are invented."""

import datetime
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from mesh.store import Store
from services.habitat import alarms, intake, readings
from village.habitat.v1 import one_map_pb2, reading_pb2, sewage_pb2, station_pb2, toilet_pb2

PARENT = "regions/360423"
POINTS, TOILETS, FACILITIES, SOURCES, SOILS, DAYS = 939, 60, 12, 3, 26, 7
"""939 villages and 41 stations as the guide has them; the rest in proportion."""
Perform = Callable[..., Any]
"""(role, request) → answer."""
Place = Callable[[int], dict[str, Any]]
"""A division and where in it, by number."""
WATER = (
    ("w01010", "℃", -5, 50, 16.0, 4.0), ("w01003", "NTU", 0, 500, 2.0, 1.0), ("w01001", "", 0, 14, 7.3, 0.2),
    ("w01014", "μS/cm", 0, 5000, 186.0, 20.0), ("w01009", "mg/L", 0, 20, 8.4, 0.8),
    ("w01018", "mg/L", 0, 500, 12.0, 3.0), ("w01017", "mg/L", 0, 200, 2.2, 0.5),
    ("w01002", "度", 0, 200, 6.0, 2.0),
)  # fmt: skip
"""The eight parameters: factor, unit, least, greatest, and about what they are and how they move in a day."""
SOIL = (
    ("x-moisture", "%", 0, 100, 21.0, 3.0), ("x-soil-temp", "℃", -30, 60, 14.0, 4.0),
    ("x-organic", "g/kg", 0, 200, 26.0, 0.4), ("x-ph", "", 0, 14, 6.4, 0.1),
)  # fmt: skip
SEWAGE = (
    ("w00000", "m³/h", 0, 500, 1.6, 0.8), ("w01018", "mg/L", 0, 500, 38.0, 8.0),
    ("w21003", "mg/L", 0, 100, 3.5, 1.0), ("w21011", "mg/L", 0, 50, 0.35, 0.1),
    ("w01010", "℃", -5, 50, 16.0, 3.0),
)  # fmt: skip


def places(towns: Sequence[str]) -> Place:
    """Villages of the townships, and somewhere in the county."""
    draw = random.Random(939)  # noqa: S311 - sample data, the same every time

    def place(n: int) -> dict[str, Any]:
        here = {"latitude": draw.uniform(28.9, 29.5), "longitude": draw.uniform(114.5, 115.5)}
        return {"division": f"{towns[n % len(towns)]}{200 + n // len(towns) % 13:03d}", "location": here}

    return place


def lay_out(store: Store, perform: Perform, place: Place, now: datetime.datetime) -> int:
    """Makes them all; how many readings there are."""
    draw = random.Random(60)  # noqa: S311 - sample data, the same every time
    for n in range(POINTS):
        where = place(n)
        point = {"title": f"{n + 1}号自然村", "connected": n % 25 != 0, "households": 12 + n % 78, **where}
        wanted = f"{where['division']}{n:04d}"
        perform("KA", one_map_pb2.CreateVillagePointRequest(
            parent=PARENT, village_point=point, village_point_id=wanted))  # fmt: skip
    for n in range(TOILETS):
        toilet = {"title": f"{n + 1}号公厕", "seats": draw.randint(2, 8), "treatment": 1 + n % 5,
                  "condition": 2 if n % 12 == 0 else 1, **place(n)}  # fmt: skip
        perform("KA", toilet_pb2.CreateToiletRequest(parent=PARENT, toilet=toilet, toilet_id=f"wc-{n + 1}"))
    count = 0
    for n in range(FACILITIES):
        where = place(n * 7)
        title = f"{n + 1}号污水处理站"
        facility = {"title": title, "process": 1 + n % 5, "design_m3_per_day": 50, **where}
        made = perform("KA", sewage_pb2.CreateSewageFacilityRequest(
            parent=PARENT, sewage_facility=facility, sewage_facility_id=f"ws-{n + 1}"))  # fmt: skip
        station = {"title": f"{title}出水", "kind": 2, "subject": made.name, "standard_class": "一级B",
                   "standard": f"{PARENT}/standards/gb-18918-2002", **where}  # fmt: skip
        made = _station(perform, f"ws-{n + 1}", station, SEWAGE)
        count += _measured(store, made, SEWAGE, now)
    for n in range(SOURCES):
        where = place(n * 5)
        source = {"title": f"{n + 1}号水源地", "kind": 1 + n % 3, "served_people": 2000 + 700 * n, **where}
        made = perform("KA", station_pb2.CreateWaterSourceRequest(
            parent=PARENT, water_source=source, water_source_id=f"sy-{n + 1}"))  # fmt: skip
        station = {"title": f"{n + 1}号水源地自动站", "kind": 1, "subject": made.name, "standard_class": "Ⅲ",
                   "standard": f"{PARENT}/standards/gb-3838-2002", **where}  # fmt: skip
        made = _station(perform, f"sy-{n + 1}", station, WATER)
        count += _measured(store, made, WATER, now)
    for n in range(SOILS):
        station = {"title": f"{n + 1}号土壤墒情站", "kind": 4, **place(n * 3)}
        made = _station(perform, f"ts-{n + 1}", station, SOIL)
        count += _measured(store, made, SOIL, now)
    readings.sum_days(store, now)
    alarms.watch(store, now)
    return count


def _station(perform: Perform, wanted: str, station: dict[str, Any], factors: Sequence[Any]) -> Any:
    number = f"360423ST{int.from_bytes(wanted.encode()[-6:]) % 10**14:014d}"
    instruments = [
        {"factor": factor, "unit": unit, "low": low, "high": high, "interval_s": 3600}
        for factor, unit, low, high, *_ in factors
    ]
    whole = {**station, "instruments": instruments, "device_number": number}
    return perform("KA", station_pb2.CreateStationRequest(parent=PARENT, station=whole, station_id=wanted))


def _measured(store: Store, station: Any, factors: Sequence[Any], now: datetime.datetime) -> int:
    """Hourly readings of the last days; how many."""
    draw, last = random.Random(station.name), int(now.timestamp()) // 3600 * 3600  # noqa: S311
    times = [1000 * (last - 3600 * n) for n in reversed(range(24 * DAYS))]

    def values(mean: float, swing: float) -> list[float]:
        moved = (mean + swing * math.sin(time / 1.375e7) + draw.gauss(0, swing / 4) for time in times)
        return [round(max(value, 0.01), 3) for value in moved]

    given = [
        reading_pb2.Series(factor=factor, times_ms=times, values=values(mean, swing))
        for factor, _, _, _, mean, swing in factors
    ]
    return intake.of(store).take(station, given, now).taken
