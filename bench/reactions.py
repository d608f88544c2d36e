"""Events acted on a second, one upsert each: the plumbing's reactor, whose effect is a record with audit row
and event of its own, to the same upsert and a cursor written by hand, from the same stream."""

import asyncio
import contextlib
import pathlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import sqlalchemy as sa

from bench import figures, places
from mesh import bus, events, reactions, resources
from tests.broker import Broker
from tests.county import County
from tests.trial import domain

COUNT, STOCKS, PAIRS = 3000, 50, 5
NAMES = [f"reactions.{kind}" for kind in places.KINDS]
UPSERT = (
    "INSERT INTO taken (name, quantity) VALUES (?, 1) "
    "ON CONFLICT (name) DO UPDATE SET quantity = taken.quantity + 1"
)


def measure(names: Sequence[str], folder: pathlib.Path, server: sa.URL | None) -> Iterator[figures.Figure]:
    """Those of NAMES that are named."""
    home = folder / "reactions"
    home.mkdir()
    broker = Broker(home)
    try:
        for name in names:
            kind = name.split(".")[1]
            (home / kind).mkdir()
            counties = [0]

            def ours(kind: str = kind, counties: list[int] = counties) -> float:
                counties[0] += 1
                place = home / kind / str(counties[0])
                place.mkdir()
                county = County(place, places.empty(kind, folder, server), domain.service())
                try:
                    return asyncio.run(_ours(county, broker.url))
                finally:
                    county.close()

            def floor(kind: str = kind) -> float:
                return asyncio.run(_floor(_connect(places.empty(kind, folder, server)), broker.url))

            value, least, ratio, spread = figures.pairs(ours, floor, PAIRS)
            about = {
                "events": f"{COUNT} over {STOCKS} records, fetched {reactions.BATCH} at a time",
                "database": places.DURABILITY[kind], "broker": "sync_interval: always",
                "runs": f"{PAIRS} pairs in turn", "ratios": spread, "target": "at least 0.4",
                "load average": figures.load_average(),
            }  # fmt: skip
            yield figures.Figure(name, round(value, 1), "events/s", round(least, 1), round(ratio, 3), about)
    finally:
        broker.kill()


def _messages() -> list[bus.Message]:
    pb, found = domain.messages(), []
    subject = events.subject("360423", "trial", "stock", "taken")
    for n in range(COUNT):
        event = pb.StockTaken(stock={"name": f"{domain.PARENT}/stocks/s{n % STOCKS}", "quantity": n})
        headers = {"ce-id": f"e{n}", "Nats-Msg-Id": f"e{n}", "ce-type": event.DESCRIPTOR.full_name,
                   "ce-time": "2026-03-02T00:00:00Z"}  # fmt: skip
        found.append((subject, headers, event.SerializeToString()))
    return found


@contextlib.asynccontextmanager
async def _stream(url: str) -> Any:
    """The domain's stream with the events, for one run."""
    client = await bus.connect(url)
    js = client.jetstream(timeout=bus.TIMEOUT_S)
    await bus.ensure_stream(client, "trial")
    found = _messages()
    for at in range(0, COUNT, 500):
        await bus.publish(client, found[at : at + 500])
    try:
        yield client
    finally:
        await js.delete_stream(events.stream("trial"))
        await client.close()


async def _ours(county: County, url: str) -> float:
    async with _stream(url) as client:
        (reaction,) = county.store.reactions.values()
        reactor = reactions.Reactor(county.store, url, "360423", lambda: None, resources.utcnow)
        begun = time.perf_counter()
        subscription = await bus.consumer(client, reaction.subject, "ours")
        done = 0
        while done < COUNT:
            messages = await subscription.fetch(reactions.BATCH, timeout=5)
            await reactor._take(reaction, messages)
            done += len(messages)
        taken = time.perf_counter() - begun
    ((kept,),) = county.store.database.select(sa.text("SELECT count(*) FROM mesh_inbox"))
    assert kept == COUNT, kept
    return COUNT / taken


async def _floor(database: Any, url: str) -> float:
    """Fetch, one transaction with every upsert and the cursor, acknowledge."""
    upsert, move, pb = database.upsert, database.move, domain.messages()
    async with _stream(url) as client:
        begun = time.perf_counter()
        subscription = await bus.consumer(client, "village.*.*.*.trial.stock.taken", "floor")
        done = 0
        while done < COUNT:
            messages = await subscription.fetch(reactions.BATCH, timeout=5)
            names = [pb.StockTaken.FromString(m.data).stock.name for m in messages]
            await asyncio.to_thread(upsert, names)
            for message in messages:
                await message.ack()
            done += len(messages)
        taken = time.perf_counter() - begun
    assert move() == COUNT
    return COUNT / taken


class _Sqlite:
    def __init__(self, url: str) -> None:
        path = url.removeprefix("sqlite:///")
        self._own = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for sql in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL",
                    "CREATE TABLE taken (name TEXT PRIMARY KEY, quantity INTEGER NOT NULL)",
                    "CREATE TABLE at (number INTEGER NOT NULL)", "INSERT INTO at VALUES (0)"):  # fmt: skip
            self._own.execute(sql)

    def upsert(self, names: list[str]) -> None:
        self._own.execute("BEGIN IMMEDIATE")
        for name in names:
            self._own.execute(UPSERT, (name,))
        self._own.execute("UPDATE at SET number = number + ?", (len(names),))
        self._own.execute("COMMIT")

    def move(self) -> int:
        return int(self._own.execute("SELECT number FROM at").fetchone()[0])


class _Postgresql:
    def __init__(self, url: str) -> None:
        self._own = psycopg.connect(url.replace("postgresql+psycopg", "postgresql"))
        self._own.execute("CREATE TABLE taken (name TEXT PRIMARY KEY, quantity BIGINT NOT NULL)")
        self._own.execute("CREATE TABLE at (number BIGINT NOT NULL)")
        self._own.execute("INSERT INTO at VALUES (0)")
        self._own.commit()

    def upsert(self, names: list[str]) -> None:
        with self._own.transaction():
            for name in names:
                self._own.execute(UPSERT.replace("?", "%s"), (name,), prepare=True)  # type: ignore[arg-type]
            self._own.execute("UPDATE at SET number = number + %s", (len(names),))

    def move(self) -> int:
        row = self._own.execute("SELECT number FROM at").fetchone()
        assert row is not None
        return int(row[0])


def _connect(url: str) -> Any:
    return _Sqlite(url) if url.startswith("sqlite") else _Postgresql(url)
