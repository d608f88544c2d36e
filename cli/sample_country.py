"""What `villagemesh sample` lays out between the villages: bins and where they are carried to, soil stations,
machines and their jobs, ecology, hazards, farms: a few of everything the one map draws, all of it invented.
Separate from `sample_facilities`, which is what the villages have themselves."""

import datetime
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

from services.habitat import polygons, tracks
from village.habitat.v1 import (
    agro_point_pb2,
    black_soil_pb2,
    eco_unit_pb2,
    extension_pb2,
    hazard_pb2,
    machinery_pb2,
    sample_pb2,
    sortie_pb2,
    waste_pb2,
    zone_pb2,
)

PARENT = "regions/360423"
MACHINES, JOBS, BINS, SOILS = 1064, 12, 120, 6
"""As many machines as the guide has of Lishu; the rest in proportion."""
POINTS = 200
"""Positions in a message of a terminal."""
FARM_UNIT, LAB_UNIT = "93360423TE5T00201X", "12360423TE5T00101K"
Ask = Callable[..., Any]
"""(role, request, and `ago` the present, `subject`, `unit`) → answer."""
Place = Callable[[int], dict[str, Any]]
Span = datetime.timedelta


def lay_out(ask: Ask, place: Place, photo: Any, machines: int, now: datetime.datetime) -> None:
    """Makes them all. `place`: a division and where in it, by number; `photo`: one that is kept; `machines`:
    how many at most."""
    draw = random.Random(1064)  # noqa: S311 - sample data, the same every time
    _waste(ask, place, draw)
    _ecology(ask, place, draw, now)
    _changes(ask, place, photo, now)
    _hazards(ask, place, draw, now)
    _soil(ask, place, draw, now)
    _science(ask, place, draw, now)
    _water(ask, now)
    _machinery(ask, place, min(machines, MACHINES), now)


def _time(moment: datetime.datetime) -> dict[str, int]:
    return {"seconds": int(moment.timestamp())}


def _square(at: dict[str, float], side: float) -> list[dict[str, float]]:
    """The corners of about a square of so many degrees."""
    south, west = at["latitude"], at["longitude"]
    return [
        {"latitude": south + up, "longitude": west + right}
        for up, right in ((0, 0), (0, side), (side, side * 0.9), (side, side * 0.1))
    ]


def _waste(ask: Ask, place: Place, draw: random.Random) -> None:
    """Bins, the stations that they are carried to, vehicles and their routes."""
    stations = []
    for n in range(6):
        wanted = {"title": f"{n + 1}号垃圾中转站", "capacity_kg_per_day": 20_000, **place(n)}
        request = waste_pb2.CreateTransferStationRequest(
            parent=PARENT, transfer_station=wanted, transfer_station_id=f"zz-{n + 1}"
        )
        stations.append(ask("KA", request))
    bins: list[Any] = []
    for n in range(BINS):  # each in the township of its station
        wanted = {"title": f"{n + 1}号投放点", "kind": 1 + n % 4, "capacity_l": 240, "full_percent": 90,
                  **place(20 * (n // len(stations)) + n % len(stations))}  # fmt: skip
        bins.append(ask("KA", waste_pb2.CreateBinRequest(parent=PARENT, bin=wanted, bin_id=f"tf-{n + 1}")))
    for n, station in enumerate(stations):
        town = station.division[:9]
        wanted = {"fleet_number": f"WN-{n + 1:02d}", "division": town, "kind": 1, "load_kg": 5000}
        ask("KA", waste_pb2.CreateVehicleRequest(parent=PARENT, vehicle=wanted))
        served = [each.name for each in bins[n :: len(stations)]]
        wanted = {"title": f"{n + 1}号清运线", "division": town, "bins": served,
                  "station": station.name, "tolerance_m": 30,
                  "trips_per_week": draw.randint(3, 7)}  # fmt: skip
        ask("KA", waste_pb2.CreateRouteRequest(parent=PARENT, route=wanted))


def _ecology(ask: Ask, place: Place, draw: random.Random, now: datetime.datetime) -> None:
    """Ecological units with a year of one indicator, and fragile zones."""
    wanted: Any = {"code": "ndvi", "title": "植被指数", "formula": "(NIR - R) / (NIR + R)", "least": -1,
                   "greatest": 1, "better": 1}  # fmt: skip
    ndvi = ask("PA", eco_unit_pb2.CreateEcoIndicatorRequest(parent=PARENT, eco_indicator=wanted)).name
    for n in range(12):
        boundary = _square(place(n * 3)["location"], 0.03)
        area = polygons.area_km2(eco_unit_pb2.EcoUnit(boundary=boundary).boundary)
        wanted = {"title": f"{n + 1}号生态单元", "kind": 1 + n % 6, "boundary": boundary, "area_km2": area,
                  "area_tolerance_percent": 2}  # fmt: skip
        unit = ask("PA", eco_unit_pb2.CreateEcoUnitRequest(parent=PARENT, eco_unit=wanted)).name
        for season in range(4):
            wanted = {"eco_unit": unit, "indicator": ndvi, "value": round(draw.uniform(0.4, 0.8), 3),
                      "observe_time": _time(now - Span(days=1 + 90 * season))}  # fmt: skip
            ask("KA", eco_unit_pb2.CreateEcoObservationRequest(parent=PARENT, eco_observation=wanted))
    for n in range(8):
        at = place(n * 5)
        wanted = {"title": f"{n + 1}号脆弱区", "kind": 1 + n % 6, "location": at["location"]}
        zone = ask("KA", zone_pb2.IdentifyFragileZoneRequest(parent=PARENT, fragile_zone=wanted)).name
        if n % 4:
            wanted = {"zone": zone, "index": 0.2 * (1 + n % 4), "grade": 1 + n % 4, "method": "RUSLE",
                      "assess_time": _time(now - Span(days=40))}  # fmt: skip
            made = ask("PA", zone_pb2.CreateZoneAssessmentRequest(parent=PARENT, zone_assessment=wanted)).name
            ask("PA", zone_pb2.AssessFragileZoneRequest(name=zone, zone_assessment=made))
        if n % 4 > 1:
            boundary = _square(at["location"], 0.01)
            ask("PA", zone_pb2.DelimitFragileZoneRequest(name=zone, boundary=boundary))
            ask("PA", zone_pb2.MonitorFragileZoneRequest(name=zone))


def _changes(ask: Ask, place: Place, photo: Any, now: datetime.datetime) -> None:
    """Tips on changes, half of them looked at, and sorties of drones."""
    for n in range(8):
        wanted: Any = {"source": zone_pb2.ChangeTip.SOURCE_PERSON, "description": "新挖山体", **place(n * 5)}
        tip = ask("TO", zone_pb2.FileChangeTipRequest(parent=PARENT, change_tip=wanted)).name
        if n % 2:
            ask("KA", zone_pb2.CheckChangeTipRequest(name=tip, reason="已到现场", evidence=[photo]))
    for n in range(3):
        wanted = {"title": f"{n + 1}号航飞任务", "platform": 1, "resolution_m": 0.1,
                  "boundary": _square(place(n * 7)["location"], 0.02), "flight_permit": f"SYNTHETIC-{n + 1}",
                  "unit": LAB_UNIT, "window_start_time": _time(now - Span(days=9)),
                  "window_end_time": _time(now + Span(days=9))}  # fmt: skip
        sortie = ask("KA", sortie_pb2.PlanSortieRequest(parent=PARENT, sortie=wanted)).name
        if n:
            flown = _time(now - Span(days=n))
            ask("KA", sortie_pb2.FlySortieRequest(name=sortie, fly_time=flown, flown_km2=4))


def _hazards(ask: Ask, place: Place, draw: random.Random, now: datetime.datetime) -> None:
    """Sites that are patrolled, two of them under a warning."""
    for n in range(16):
        wanted: Any = {"title": f"{n + 1}号隐患点", "kind": 1 + n % 6, "threatened_people": 8 + 5 * n,
                       "watch_interval_hours": 24, "watch_post": "村地灾监测岗", "rain_threshold_mm": 100,
                       "displacement_threshold_mm": 20, "threshold_basis": "县地灾防治方案（示例）",
                       **place(n * 2)}  # fmt: skip
        request = hazard_pb2.CreateHazardSiteRequest(parent=PARENT, hazard_site=wanted)
        site = ask("KA", request).name
        for day in (3, 2, 1) if n % 8 else ():
            wanted = {"hazard_site": site, "watch_time": _time(now - Span(hours=24 * day - n % 3)),
                      "rainfall_mm": round(draw.uniform(0, 40), 1)}  # fmt: skip
            ask("VO", hazard_pb2.CreateWatchRecordRequest(parent=PARENT, watch_record=wanted))
        if n in (3, 11):
            wanted = {"hazard_site": site, "grade": 1 + n % 2, "rainfall_mm": 120, "displacement_mm": 8}
            ask("KA", hazard_pb2.RaiseHazardWarningRequest(parent=PARENT, hazard_warning=wanted))


def _soil(ask: Ask, place: Place, draw: random.Random, now: datetime.datetime) -> None:
    """Zones of the soil's fertility (黑土地), each the mean of three samples."""
    for n in range(SOILS):
        at = place(n * 4)
        samples = []
        for _ in range(3):
            wanted: Any = {
                "take_time": _time(now - Span(days=30)),
                "depth_cm": 20,
                "laboratory": LAB_UNIT,
                **at,
            }
            made = ask("VO", black_soil_pb2.TakeSoilSampleRequest(parent=PARENT, soil_sample=wanted)).name
            found = black_soil_pb2.TestSoilSampleRequest(
                name=made, organic_matter_g_kg=draw.uniform(15, 35), nitrogen_mg_kg=draw.uniform(90, 150),
                phosphorus_mg_kg=draw.uniform(10, 30), potassium_mg_kg=draw.uniform(90, 180), ph=6.4,
                moisture_percent=21, method="NY/T 1121",
            )  # fmt: skip
            ask("LAB", found, unit=LAB_UNIT)
            samples.append(made)
        wanted = {"division": at["division"], "title": f"{n + 1}号肥力分区", "soil_samples": samples,
                  "boundary": _square(at["location"], 0.01)}  # fmt: skip
        ask("KA", black_soil_pb2.CreateFertilityZoneRequest(parent=PARENT, fertility_zone=wanted))


def _science(ask: Ask, place: Place, draw: random.Random, now: datetime.datetime) -> None:
    """Points of the agricultural environment with what was found there, and who brings science to farms."""
    for n in range(24):
        wanted: Any = {
            "title": f"{n + 1}号农业生态点",
            "medium": 1 + n % 3,
            "active": n % 9 != 0,
            **place(n * 3),
        }
        point = ask("KA", agro_point_pb2.CreateAgroPointRequest(parent=PARENT, agro_point=wanted)).name
        if n % 3 == 0:
            cadmium = {"factor": "x-cd", "value": round(draw.uniform(0.1, 0.34), 3), "unit": "mg/kg",
                       "limit": 0.3, "basis": "GB 15618-2018"}  # fmt: skip
            wanted = {"agro_point": point, "take_time": _time(now - Span(days=20)),
                      "findings": [cadmium, {"factor": "x-ph", "value": 6.1}]}  # fmt: skip
            ask("KA", agro_point_pb2.CreateAgroSampleRequest(parent=PARENT, agro_sample=wanted))
    wanted = {"title": "示例农业大学", "kind": 1, "unit": LAB_UNIT, "experts": 30, "students": 50}
    school = ask("KA", extension_pb2.CreateInstitutionRequest(parent=PARENT, institution=wanted)).name
    for n in range(6):
        wanted = {"title": f"{n + 1}号科技小院", "kind": 1 + n % 3, "active": True, "institutions": [school],
                  "open_time": _time(now - Span(days=400)), **place(n * 6)}  # fmt: skip
        ask("KA", extension_pb2.CreateExtensionStationRequest(parent=PARENT, extension_station=wanted))


def _water(ask: Ask, now: datetime.datetime) -> None:
    """Samples of the sources, tested and published."""
    wanted: Any = {"code": "B-1"}
    request = sample_pb2.CreateAnalysisBatchRequest(parent=PARENT, analysis_batch=wanted)
    batch = ask("LAB", request, unit=LAB_UNIT).name
    for n in range(3):
        wanted = {"source": f"{PARENT}/waterSources/sy-{n + 1}", "point": "取水口", "kind": 1,
                  "take_time": _time(now - Span(days=6)), "sampler_post": "县疾控采样岗",
                  "laboratory": LAB_UNIT,
                  "containers": [{"code": f"W-{n + 1}", "material": 1, "volume_ml": 500}]}  # fmt: skip
        name = ask("VO", sample_pb2.TakeSampleRequest(parent=PARENT, sample=wanted)).name
        ask("LAB", sample_pb2.ReceiveSampleRequest(name=name), unit=LAB_UNIT)
        for factor, value in (("w01018", 11.2 + n), ("w21003", 0.2), ("w21011", 0.04)):
            wanted = {"sample": name, "batch": batch, "factor": factor, "value": value, "unit": "mg/L",
                      "method": "示例方法", "measure_time": _time(now - Span(days=5))}  # fmt: skip
            asked = sample_pb2.CreateLabResultRequest(parent=PARENT, lab_result=wanted)
            ask("LAB", asked, unit=LAB_UNIT)
        ask("LAB", sample_pb2.TestSampleRequest(name=name), unit=LAB_UNIT)
        ask("LAB", sample_pb2.ReportSampleRequest(name=name), unit=LAB_UNIT)
        ask("KA", sample_pb2.PublishSampleRequest(name=name))


def _machinery(ask: Ask, place: Place, count: int, now: datetime.datetime) -> None:
    """Machines and their terminals; the first of them have worked, most of that verified."""
    wanted: Any = {"kind": 1, "least_depth_cm": 25, "longest_gap_s": 60, "fastest_kmh": 30,
                   "least_ratio_percent": 60, "basis": "县农机补贴细则（示例）", "confidence": 3,
                   "effective_time": _time(now - Span(days=30))}  # fmt: skip
    ask("KA", machinery_pb2.CreateJobRuleRequest(parent=PARENT, job_rule=wanted))
    for n in range(count):
        at, device = place(n), f"nj-{n + 1:04d}"
        wanted = {"division": at["division"], "title": f"{n + 1}号拖拉机", "number": f"SYN-{n + 1:04d}",
                  "owner_unit": FARM_UNIT, "kinds": [1], "working_width_m": 3}  # fmt: skip
        request = machinery_pb2.CreateMachineRequest(parent=PARENT, machine=wanted, machine_id=device)
        machine = ask("KA", request).name
        wanted = {"machine": machine, "device": device, "active": n % 20 != 19}
        fixed = machinery_pb2.CreateTerminalRequest(parent=PARENT, terminal=wanted, terminal_id=device)
        terminal = ask("KA", fixed).name
        if n < JOBS:
            _job(ask, n, at, (machine, terminal, device), now)


def _job(ask: Ask, n: int, at: dict[str, Any], machine: tuple[str, str, str], now: datetime.datetime) -> None:
    """One field, ploughed deep: started, ended, computed, verified and settled, as far as it came."""
    began = Span(hours=6 + 3 * n)
    wanted: Any = {"machine": machine[0], "terminal": machine[1], "kind": 1, "division": at["division"]}
    started = machinery_pb2.StartMachineryJobRequest(parent=PARENT, machinery_job=wanted)
    job = ask("TO", started, ago=began).name
    points = list(_furrows(at["location"], now - began))
    for first in range(0, len(points), POINTS):
        part = points[first : first + POINTS]
        asked = machinery_pb2.ReportPositionsRequest(parent=PARENT, machine=machine[0], points=part)
        ask("DEV", asked, ago=began - Span(hours=2), subject=machine[2], unit="")
    if n == JOBS - 1:
        return
    ended = machinery_pb2.EndMachineryJobRequest(name=job, claimed_mu=11.0)
    ask("TO", ended, ago=began - Span(hours=2))
    computed = ask("KA", machinery_pb2.ComputeMachineryJobRequest(name=job), ago=began - Span(hours=3))
    if n % 4 != 3:
        most = math.floor(min(computed.worked_mu, computed.claimed_mu) * 100) / 100
        verified = machinery_pb2.VerifyMachineryJobRequest(name=job, verified_mu=most)
        ask("KA", verified, ago=began - Span(hours=4), subject="officer-2")
    if n % 4 == 0:
        ask("KA", machinery_pb2.SettleMachineryJobRequest(name=job), ago=began - Span(hours=5))


def _furrows(at: dict[str, float], begun: datetime.datetime) -> Iterator[dict[str, Any]]:
    """Where a machine was: up and down a field, a point every ten metres."""
    east = tracks.METRES_PER_DEGREE * math.cos(math.radians(at["latitude"]))
    moment = begun + Span(minutes=1)
    for lane in range(8):
        for step in range(31):
            along = 10 * (step if lane % 2 == 0 else 30 - step)
            here = {"latitude": at["latitude"] + 2.9 * lane / tracks.METRES_PER_DEGREE,
                    "longitude": at["longitude"] + along / east}  # fmt: skip
            yield {"time": _time(moment), "location": here, "depth_cm": 30}
            moment += Span(seconds=5)
