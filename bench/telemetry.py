"""Readings: taken a second by gRPC streaming to the driver's own time for the same rows, by MQTT to disk,
frames of HJ 212 parsed, how long sums take, and what memory five million cost."""

import pathlib
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import orjson
import psutil
import psycopg
import sqlalchemy as sa

from bench import figures, places
from deploy.local import directory
from mesh import resources
from services.habitat import hj212, series_tables
from tests import mqtt, waiting
from tests.county import PEOPLE, REGION, County, mint
from tests.habitat.test_h11_sources import INSTRUMENTS
from tests.integration import test_feeds
from tests.unit.test_hj212 import HOURLY
from village.habitat.v1 import reading_pb2 as pb
from village.habitat.v1 import station_pb2

PAIRS = 3
READINGS, IN_MESSAGE = 480_000, 600
"""In all, and of each of eight factors in a message: ten hours at one a minute."""
MINUTE_MS = 60_000
PATH = "/village.habitat.v1.ReadingService/"
NAMES = [
    *(f"readings.{kind}" for kind in places.KINDS), "readings.memory", "readings.hj212", "readings.mqtt",
    *(f"sums.{kind}.{what}" for kind in places.KINDS for what in ("points", "year")),
]  # fmt: skip
STATION = f"regions/{REGION}/stations/bench"


def messages(
    station: str, count: int, start: int, every: int = MINUTE_MS
) -> Iterator[pb.StreamReadingsRequest]:
    """`count` readings from a time on, eight factors at once."""
    values = [[0.5 + (n * 7 + k * 13) % 97 / 100 for n in range(IN_MESSAGE)] for k in range(8)]
    for n in range(count // (8 * IN_MESSAGE)):
        times = range(start + n * IN_MESSAGE * every, start + (n + 1) * IN_MESSAGE * every, every)
        message = pb.StreamReadingsRequest(parent=f"regions/{REGION}", station=station)
        for k, instrument in enumerate(INSTRUMENTS):
            message.series.add(factor=instrument["factor"], times_ms=times, values=values[k])
        yield message


def measure(names: Sequence[str], folder: pathlib.Path, server: sa.URL | None) -> Iterator[figures.Figure]:
    """Those of NAMES that are named."""
    if "readings.hj212" in names:
        yield _frames()
    for name in names:
        if name == "readings.mqtt":
            yield _mqtt(folder)
        elif name.split(".")[0] == "readings" and name != "readings.hj212":
            yield _taken(name, folder, server)
    for kind in places.KINDS:
        wanted = [name for name in names if name.startswith(f"sums.{kind}")]
        if wanted:
            yield from _sums(wanted, kind, folder, server)


class _Served:
    """The service on an empty database, with a station."""

    def __init__(self, kind: str, folder: pathlib.Path, server: sa.URL | None) -> None:
        self.home = folder / f"readings-{time.monotonic_ns()}"
        self.home.mkdir()
        self.url = places.empty(kind, folder, server)
        county = County(self.home, self.url)
        self.private, county.now = county.private, resources.utcnow()
        wanted = {
            "title": "盘溪水库自动站", "division": f"{REGION}100201", "kind": 1, "device": "device-1",
            "location": {"latitude": 29.26, "longitude": 115.1}, "instruments": INSTRUMENTS,
        }  # fmt: skip
        county.call(
            "county",
            station_pb2.CreateStationRequest(parent=f"regions/{REGION}", station=wanted, station_id="bench"),
        )
        county.close()

    def __enter__(self) -> "_Served":
        self.address = f"127.0.0.1:{waiting.free_port()}"
        environment = {
            "VILLAGEMESH_REGION": REGION, "VILLAGEMESH_LISTEN": self.address,
            "VILLAGEMESH_DATABASE_URL": self.url, "VILLAGEMESH_NATS_URL": "nats://127.0.0.1:1",
            "VILLAGEMESH_LOG_LEVEL": "ERROR", **directory.files(self.home),
        }  # fmt: skip
        log = self.home / "server.log"
        self._running = places.running(
            [sys.executable, "-m", "cli.main", "serve", "habitat"], environment, log
        )
        self.process = self._running.__enter__()
        places._wait(self.process, self.address, log)
        self.channel = grpc.insecure_channel(self.address)
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        self._running.__exit__(None, None, None)

    def headers(self, who: str) -> list[tuple[str, str]]:
        who_ = {**PEOPLE[who]}
        return [("authorization", f"Bearer {mint(self.private, resources.utcnow(), **who_)}")]

    def stream(self, raws: Sequence[bytes]) -> pb.StreamReadingsResponse:
        """Sends messages that are packed already, as a device's own process would be another's."""
        call = self.channel.stream_unary(f"{PATH}StreamReadings", None, pb.StreamReadingsResponse.FromString)
        found: pb.StreamReadingsResponse = call(iter(raws), metadata=self.headers("device"))
        return found


def _taken(name: str, folder: pathlib.Path, server: sa.URL | None) -> figures.Figure:
    kind = name.split(".")[1]
    start = int(time.time() * 1000) // 86_400_000 * 86_400_000 - 400 * 86_400_000
    if kind == "memory":
        return _memory(folder, start - 200 * 86_400_000)
    raws = [m.SerializeToString() for m in messages(STATION, READINGS, start)]

    def ours() -> float:
        with _Served(kind, folder, server) as served:
            served.stream(raws[:1])
            begun = time.perf_counter()
            found = served.stream(raws)
            taken = time.perf_counter() - begun
            assert (found.taken_count, found.repeated_count) == (READINGS - 4800, 4800), found
            return (READINGS - 4800) / taken

    rows = [
        [
            (series_tables.series_of(STATION, s.factor), t, v, "N", "")
            for s in pb.StreamReadingsRequest.FromString(raw).series
            for t, v in zip(s.times_ms, s.values, strict=True)
        ]
        for raw in raws
    ]

    def floor() -> float:
        with _Served(kind, folder, server) as served:
            return READINGS / _by_hand(served.url, rows, start)

    value, least, ratio, spread = figures.pairs(ours, floor, PAIRS)
    about = {
        "readings": f"{READINGS}, {8 * IN_MESSAGE} in a message and a commit; checked, hours and days summed",
        "floor": "COPY, written row by row" if kind == "postgresql" else "executemany",
        "of the floor": "the same rows made ready, into the same table, commits of the same size, no sums",
        "database": places.DURABILITY[kind], "runs": f"{PAIRS} pairs in turn", "ratios": spread,
        "target": "at least 0.4 on PostgreSQL, 0.5 on SQLite", "load average": figures.load_average(),
    }  # fmt: skip
    return figures.Figure(name, round(value), "readings/s", round(least), round(ratio, 3), about)


def _by_hand(url: str, batches: list[list[tuple[Any, ...]]], start: int) -> float:
    """Seconds of the driver itself."""
    if url.startswith("sqlite"):
        connection: Any = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        connection.execute("PRAGMA synchronous=FULL")
        begun = time.perf_counter()
        for batch in batches:
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO readings VALUES (?, ?, ?, ?, ?)", batch)
            connection.execute("COMMIT")
    else:
        connection = psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True)
        connection.execute(
            f"CREATE TABLE readings_all PARTITION OF readings FOR VALUES FROM ({start}) "
            f"TO ({start + (1 << 40)})"
        )
        begun = time.perf_counter()
        for batch in batches:
            with connection.cursor().copy("COPY readings FROM STDIN") as copy:
                for row in batch:
                    copy.write_row(row)
    taken = time.perf_counter() - begun
    connection.close()
    return taken


def _memory(folder: pathlib.Path, start: int) -> figures.Figure:
    """What the service's process grows by while it takes five million readings."""
    with _Served("sqlite", folder, None) as served:
        process, each = psutil.Process(served.process.pid), 500_000 // 4800 * 4800
        served.stream([m.SerializeToString() for m in messages(STATION, each, start)])
        before, begun = process.memory_info().rss, time.perf_counter()
        for n in range(1, 11):
            at = start + n * each // 8 * MINUTE_MS
            served.stream([m.SerializeToString() for m in messages(STATION, each, at)])
        grown = (process.memory_info().rss - before) / 1e6
        rate = 10 * each / (time.perf_counter() - begun)
    about = {"readings": f"{10 * each} behind {each}", "database": places.DURABILITY["sqlite"],
             "readings/s": round(rate), "target": "flat: at most 20 MB"}  # fmt: skip
    return figures.Figure("readings.memory", round(grown, 1), "MB", None, None, about)


def _mqtt(folder: pathlib.Path) -> figures.Figure:
    """From the first message a station publishes to the last reading in the database of a whole node."""
    node, number, count = test_feeds.County(folder / "mqtt"), "360423100201000000WQ0001", 5000
    node.start()
    try:
        node.station("mq", number)
        topic, password = f"readings/{REGION}/{number}", node.password(number)
        start = int(time.time() * 1000) - 30 * 86_400_000
        factors = [i["factor"] for i in INSTRUMENTS]
        payloads = [
            orjson.dumps(
                {
                    "time_ms": start + n * MINUTE_MS,
                    "values": {f: n % 90 + k / 8 for k, f in enumerate(factors)},
                }
            )
            for n in range(count)
        ]
        with mqtt.Station(node.mqtt, number, password) as station:
            begun = time.perf_counter()
            station.publish(topic, payloads, window=1000)
            published = time.perf_counter() - begun
        database = sqlite3.connect(node.data / "data/habitat.db")
        while database.execute("SELECT count(*) FROM readings").fetchone()[0] < count * len(factors):
            time.sleep(0.02)
        taken = time.perf_counter() - begun
        database.close()
    finally:
        node.stop()
    about = {
        "messages": f"{count} of {len(factors)} readings from one station, QoS 1",
        "acknowledged in": f"{published:.1f} s", "database": places.DURABILITY["sqlite"],
        "broker": places.DURABILITY["nats"], "target": "at least 5,000",
        "load average": figures.load_average(),
    }  # fmt: skip
    return figures.Figure(
        "readings.mqtt", round(count * len(factors) / taken), "readings/s", None, None, about
    )


def _frames() -> figures.Figure:
    raw, found = hj212.frame(HOURLY) * 20_000, 0
    reader, begun = hj212.Reader(), time.perf_counter()
    for start in range(0, len(raw), 65_536):
        for one in reader.feed(raw[start : start + 65_536]):
            assert isinstance(one, hj212.Frame)
            found += len(hj212.measured(one))
    rate = 20_000 / (time.perf_counter() - begun)
    about = {"frames": "20,000 of 331 bytes, seven factors, checksum and values read, no database",
             "target": "at least 10,000", "load average": figures.load_average()}  # fmt: skip
    return figures.Figure("readings.hj212", round(rate), "frames/s", None, None, about)


def _sums(
    names: Sequence[str], kind: str, folder: pathlib.Path, server: sa.URL | None
) -> Iterator[figures.Figure]:
    """Sums of ten thousand readings of one station, and of a year of hourly ones of 41."""
    start = int(time.time() * 1000) // 86_400_000 * 86_400_000 - 380 * 86_400_000
    with _Served(kind, folder, server) as served:
        made = served.channel.unary_unary(
            "/village.habitat.v1.StationService/CreateStation",
            station_pb2.CreateStationRequest.SerializeToString, station_pb2.Station.FromString,
        )  # fmt: skip
        get = served.channel.unary_unary(
            "/village.habitat.v1.StationService/GetStation",
            station_pb2.GetStationRequest.SerializeToString, station_pb2.Station.FromString,
        )  # fmt: skip
        bench = get(station_pb2.GetStationRequest(name=STATION), metadata=served.headers("county"))
        served.stream([m.SerializeToString() for m in messages(STATION, 81_600, start)])
        for n in range(41):
            bench.name, wanted = "", f"year-{n}"
            request = station_pb2.CreateStationRequest(
                parent=f"regions/{REGION}", station=bench, station_id=wanted
            )
            name = made(request, metadata=served.headers("county")).name
            message = pb.StreamReadingsRequest(parent=f"regions/{REGION}", station=name)
            times = range(start, start + 8760 * 3_600_000, 3_600_000)
            message.series.add(
                factor="w01018", times_ms=times, values=[n % 40 + 0.5 * (t % 3) for t in range(8760)]
            )
            served.stream([message.SerializeToString()])
        ask = served.channel.unary_unary(
            f"{PATH}AggregateReadings", pb.AggregateReadingsRequest.SerializeToString,
            pb.AggregateReadingsResponse.FromString,
        )  # fmt: skip
        span = {
            "start_time": {"seconds": start // 1000},
            "end_time": {"seconds": start // 1000 + 365 * 86_400},
        }
        parent = f"regions/{REGION}"
        asked = {
            "points": pb.AggregateReadingsRequest(parent=parent, stations=[STATION], factor="w01018", **span),
            "year": pb.AggregateReadingsRequest(
                parent=parent, stations=[f"regions/{REGION}/stations/year-{n}" for n in range(41)],
                factor="w01018", step=pb.STEP_DAY, **span,
            ),
        }  # fmt: skip
        told = {
            "points": ("10,200 readings of one station and factor, by the hour", 20),
            "year": ("a year of hourly readings of 41 stations, by the day", 200),
        }
        for name in names:
            what = name.split(".")[2]
            times_ms = []
            for _ in range(15):
                begun = time.perf_counter()
                found = ask(asked[what], metadata=served.headers("county"))
                times_ms.append((time.perf_counter() - begun) * 1000)
            count = sum(a.count for a in found.aggregates)
            assert count == {"points": 10_200, "year": 41 * 8760}[what], count
            about = {
                "what": told[what][0], "readings": count, "sums": len(found.aggregates),
                "runs": "median of 15",
                "database": places.DURABILITY[kind], "target": f"at most {told[what][1]} ms",
                "load average": figures.load_average(),
            }  # fmt: skip
            yield figures.Figure(name, round(sorted(times_ms)[7], 1), "ms", None, None, about)
