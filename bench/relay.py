"""Events a second of the relay, from committed outbox rows to the broker, to those of a hand-written client
that sends the same messages, prepared beforehand, in atomic batches of the same size."""

import asyncio
import contextlib
import dataclasses
import datetime
import json
import pathlib
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import nats
import sqlalchemy as sa

from bench import figures, places
from mesh import bus, events, outbox
from mesh.store import Store
from tests.broker import Broker
from tests.county import County

PAIRS = 7
ROWS, REAL = 20_000, 500
DOMAIN = "habitat"
KEPT = "bench_events"
UPKEEP = {
    "sqlite": ("PRAGMA wal_checkpoint(TRUNCATE)",), "postgresql": ("VACUUM ANALYZE mesh_outbox", "CHECKPOINT")
}  # fmt: skip
NAMES = [f"relay.{kind}" for kind in places.KINDS]


def measure(names: Sequence[str], folder: pathlib.Path, server: sa.URL | None) -> Iterator[figures.Figure]:
    """Those of NAMES that are named."""
    with _broker(folder) as broker:
        for name in names:
            kind = name.removeprefix("relay.")
            home = folder / f"relay-{kind}"
            home.mkdir()
            county = County(home, places.empty(kind, folder, server))
            try:
                yield _figure(name, kind, county, broker.url)
            finally:
                county.close()


def _figure(name: str, kind: str, county: County, url: str) -> figures.Figure:
    outbox_ = Outbox(county)
    value, floor, ratio, spread = figures.pairs(
        lambda: asyncio.run(_ours(outbox_.refill(), url)),
        lambda: asyncio.run(_floor(outbox_.messages(), url)),
        PAIRS,
    )
    about = {
        "events": f"{ROWS} village.habitat.v1.ReportFiled of {outbox_.size()} bytes and headers",
        "batch": outbox.BATCH, "database": places.DURABILITY[kind], "broker": places.DURABILITY["nats"],
        "runs": f"{PAIRS} pairs in turn, a fresh stream for each", "ratios": spread,
        "load average": figures.load_average(),
    }  # fmt: skip
    return figures.Figure(name, round(value), "events/s", round(floor), round(ratio, 3), about)


@contextlib.contextmanager
def _broker(folder: pathlib.Path) -> Iterator[Broker]:
    home = folder / "broker"
    home.mkdir()
    broker = Broker(home)
    try:
        yield broker
    finally:
        assert broker.process is not None
        broker.process.terminate()
        broker.process.wait()


@dataclasses.dataclass
class Outbox:
    """An outbox that can be filled again and again: reports really filed, and copies of their rows."""

    county: County

    def __post_init__(self) -> None:
        from village.habitat.v1 import report_pb2 as pb

        self.county.now = datetime.datetime.now(datetime.UTC)
        request = pb.FileReportRequest.FromString(places.filing())
        for _ in range(REAL):
            self.county.call("resident", request)
        self._do(f"CREATE TABLE {KEPT} AS SELECT * FROM mesh_outbox WHERE type LIKE '%.ReportFiled'")

    def refill(self) -> Store:
        """ROWS rows that no relay has seen, with new ids; the store they are in."""
        columns = "region, epoch, incarnation, type, subject, name, time, trace, audit_digest, payload"
        sqlite = self.county.store.sqlite
        fresh = "lower(hex(randomblob(16)))" if sqlite else "replace(gen_random_uuid()::text, '-', '')"
        self._do(
            "DELETE FROM mesh_outbox" if sqlite else "TRUNCATE mesh_outbox",
            "DELETE FROM mesh_relay",
            f"INSERT INTO mesh_outbox (event_id, {columns}) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
            f"SELECT i + 1 FROM n WHERE i < {ROWS // REAL}) SELECT {fresh}, {columns} FROM {KEPT}, n",
        )
        # as a server's idle minute leaves it: the log written back, the table's size known
        with self.county.store.database.cursor() as cursor:
            for statement in UPKEEP["sqlite" if sqlite else "postgresql"]:
                cursor.execute(statement)
        return self.county.store

    def messages(self) -> list[bus.Message]:
        """The same as the relay would send, ready."""
        store = self.refill()
        log = outbox.Log(store, store.grants.all()[0])
        rows = store.database.select(sa.text(
            "SELECT event_id, type, subject, name, time, trace, audit_digest, payload, void, id "
            "FROM mesh_outbox ORDER BY id"
        ))  # fmt: skip
        return [log.message((*row[:-1], n)) for n, row in enumerate(rows, 1)]

    def size(self) -> int:
        """Bytes of a payload, on average."""
        return int(
            self.county.store.database.select(sa.text(f"SELECT avg(length(payload)) FROM {KEPT}"))[0][0]
        )

    def _do(self, *statements: str) -> None:
        def work(cursor: Any) -> None:
            for statement in statements:
                cursor.execute(statement)

        self.county.store.database.transact(work)


async def _ours(store: Store, url: str) -> float:
    async with _stream(url) as js:
        begun = time.perf_counter()
        task = asyncio.ensure_future(outbox.Relay(store, url).run())
        while await _count(js) < ROWS:
            await asyncio.sleep(0.02)
            if task.done():
                task.result()
        taken = time.perf_counter() - begun
        while not task.done():  # before Python 3.12, asyncio.wait_for may swallow one
            task.cancel()
            await asyncio.wait([task], timeout=0.1)
        return ROWS / taken


async def _floor(messages: list[bus.Message], url: str) -> float:
    async with _stream(url) as js:
        begun = time.perf_counter()
        client = await nats.connect(url)
        for at in range(0, ROWS, outbox.BATCH):
            answer = await _batch(client, messages[at : at + outbox.BATCH])
            assert answer["count"] == outbox.BATCH, answer
        taken = time.perf_counter() - begun
        await client.close()
        assert await _count(js) == ROWS
        return ROWS / taken


async def _batch(client: Any, messages: Sequence[bus.Message]) -> Any:
    """One atomic batch (ADR-50); the broker's answer."""
    own, last = uuid.uuid4().hex, len(messages)
    for n, (subject, headers, payload) in enumerate(messages, 1):
        headers["Nats-Batch-Id"], headers["Nats-Batch-Sequence"] = own, str(n)
        if n == last:
            headers["Nats-Batch-Commit"] = "1"
            return json.loads((await client.request(subject, payload, headers=headers, timeout=10)).data)
        if n == 1:
            answer = await client.request(subject, payload, headers=headers, timeout=10)
            if answer.data:
                return json.loads(answer.data)
        else:
            await client.publish(subject, payload, headers=headers)
    raise AssertionError


@contextlib.asynccontextmanager
async def _stream(url: str) -> Any:
    """The domain's stream, empty, for one run."""
    client = await bus.connect(url)
    js = client.jetstream(timeout=bus.TIMEOUT_S)
    await bus.ensure_stream(client, DOMAIN)
    try:
        yield js
    finally:
        await js.delete_stream(events.stream(DOMAIN))
        await client.close()


async def _count(js: Any) -> int:
    return int((await js.stream_info(events.stream(DOMAIN))).state.messages)
