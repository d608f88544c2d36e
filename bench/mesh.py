"""A province and a county as two whole nodes on this machine: how fast a backlog is copied over a good line,
what a call costs that is passed on, how soon an event is a copy, and how long a call takes while a backlog
fills a slow line. The many counties of a province are in `crowd`."""

import contextlib
import json
import pathlib
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import sqlalchemy as sa

from bench import crowd, figures, load, places
from bench.backlog import INSERT, Backlog
from deploy.local import directory
from deploy.local import node as local
from tests.mesh import WUNING, XIUSHUI, Mesh, Node, databases
from tests.waiting import until
from village.habitat.v1 import report_pb2 as pb

NAMES = [
    "mesh.catchup",
    "mesh.catchup.postgresql",
    "mesh.up",
    "mesh.down",
    "mesh.event",
    "mesh.slow",
    *crowd.NAMES,
]
CALLS, WARM, FILED = 400, 50, 100
SLOW_BYTES, SLOW_FACTOR, SLOW_S = 128 * 1024, 6, 60.0
"""The slow line; how many times the usual backlog lies behind it; for how long it is measured."""
OWNERS = [("x-village-read", "owner")]


def measure(
    names: Sequence[str], folder: pathlib.Path, server: sa.URL | None, count: int
) -> Iterator[figures.Figure]:
    """Those of NAMES that are named."""
    home = folder / "mesh"
    home.mkdir()
    backlog = Backlog(home / "backlog")
    kinds: dict[str, Callable[[Mesh], figures.Figure]] = {
        "mesh.up": lambda mesh: _passed(mesh, "mesh.up", home),
        "mesh.down": lambda mesh: _passed(mesh, "mesh.down", home),
        "mesh.event": _event,
        "mesh.catchup": lambda mesh: _catchup(mesh, backlog, count, "sqlite"),
        "mesh.slow": lambda mesh: _slow(mesh, backlog, SLOW_FACTOR * count),
    }
    if "mesh.catchup.postgresql" in names:
        assert server is not None
        with Mesh(home / "postgresql", {WUNING: ("habitat",)}, database=databases(server)) as mesh:
            yield _catchup(mesh, backlog, count, "postgresql")
    if list(names) == ["mesh.catchup.postgresql"]:
        backlog.close()
        return
    with Mesh(home, {WUNING: ("habitat",)}) as mesh:
        if passed := [name for name in names if name in ("mesh.up", "mesh.down")]:
            with _direct(mesh):
                for name in passed:
                    yield kinds[name](mesh)
        for name, figure in kinds.items():
            if name in names and name not in passed:
                yield figure(mesh)
        if wanted := [name for name in names if name in crowd.NAMES]:
            yield from crowd.measure(mesh, home / "crowd", wanted)
    backlog.close()


@contextlib.contextmanager
def _direct(mesh: Mesh) -> Iterator[None]:
    """The county dials the province itself and not the proxy, which is written in Python."""
    file = mesh.wuning.data / directory.LINE
    before = file.read_text()
    for text in (json.dumps({**json.loads(before), "address": f"127.0.0.1:{mesh.office}"}), before):
        mesh.wuning.stop()
        directory.replace(file, text)
        mesh.wuning.start()
        until(mesh.well, 30)
        if text != before:
            yield


def _filed(node: Node, region: str, token: str) -> str:
    found = until(lambda: (answer := node.file(region, token=token)).status == 200 and answer, 30)
    return str(found.body["name"])


@contextlib.contextmanager
def _get(node: Node, name: str, token: str) -> Iterator[Callable[[], None]]:
    """GetReport at a node's gateway, as its owner has it."""
    headers, raw = [("authorization", f"Bearer {token}"), *OWNERS], pb.GetReportRequest(name=name)
    with grpc.insecure_channel(f"127.0.0.1:{node.port}") as channel:
        ask = load.Call.plain(channel, f"{places.SERVICE}/GetReport")
        yield lambda: ask(raw.SerializeToString(), metadata=headers, timeout=20)


def _passed(mesh: Mesh, name: str, home: pathlib.Path) -> figures.Figure:
    """Calls in turn at the other node's gateway and at the owner's, from one client, one after another."""
    if name == "mesh.up":
        crowd.County.joined(mesh, home, XIUSHUI)
        token, here, owner = mesh.province.token("PA"), mesh.wuning, mesh.province
        record = _filed(owner, XIUSHUI, owner.token("CZ", region=XIUSHUI))
        how, target = "county to province, by gRPC over the line", 2
    else:
        token, here, owner = mesh.wuning.token("KA"), mesh.province, mesh.wuning
        record = _filed(owner, WUNING, owner.token("CZ"))
        how, target = "province to county, as a request over the broker's line", 3
    with _get(here, record, token) as one, _get(owner, record, token) as two:
        until(lambda: _answers(one), 20)
        calls, taken = (one, two), ([], [])  # type: ignore[var-annotated]
        for n in range(2 * (CALLS + WARM)):
            begun = time.perf_counter()
            calls[n % 2]()
            taken[n % 2].append(time.perf_counter() - begun)
    passed, direct = (statistics.median(t[WARM:]) * 1000 for t in taken)
    about = {
        "what": f"GetReport takes longer from {how}, than at the owner's own gateway",
        "passed on": f"{passed:.2f} ms", "calls": f"{CALLS} of each in turn, medians", "callers": 1,
        "line": "on this machine, through the Envoys of both", "target": f"at most {target}",
        "load average": figures.load_average(),
    }  # fmt: skip
    added, ratio = round(passed - direct, 2), round(passed / direct, 2)
    return figures.Figure(name, added, "ms added", round(direct, 2), ratio, about)


def _answers(call: Callable[[], None]) -> bool:
    try:
        call()
    except grpc.RpcError:
        return False
    return True


def _event(mesh: Mesh) -> figures.Figure:
    """From the answer that a report was filed to its copy at the province."""
    taken, token = [], mesh.wuning.token("CZ")
    with _reading(mesh.province) as database:
        for _ in range(FILED):
            name = _filed(mesh.wuning, WUNING, token)
            begun = time.perf_counter()
            while not database.execute("SELECT 1 FROM reports WHERE name = ?", (name,)).fetchone():
                assert time.perf_counter() - begun < 20
                time.sleep(0.001)
            taken.append((time.perf_counter() - begun) * 1000)
    about = {
        "what": "from the answer that a report was filed at the county to its copy at the province",
        "runs": f"median of {FILED}, one after another", "spread": f"{min(taken):.0f} to {max(taken):.0f} ms",
        "target": "at most 100", "load average": figures.load_average(),
    }  # fmt: skip
    return figures.Figure("mesh.event", round(statistics.median(taken), 1), "ms", None, None, about)


@contextlib.contextmanager
def _reading(node: Node) -> Iterator[sqlite3.Connection]:
    url = f"file:{node.data}/data/habitat.db?mode=ro"
    with contextlib.closing(sqlite3.connect(url, uri=True, timeout=10)) as connection:
        yield connection


def _put(node: Node, backlog: Backlog, count: int) -> int:
    """Adds events to a county's log while it serves; waits until they are numbered and its own broker has
    them; the last number."""
    owned = "SELECT epoch, incarnation FROM mesh_ownership WHERE region = ?"
    with contextlib.closing(sqlite3.connect(f"{node.data}/data/habitat.db", timeout=30)) as connection:
        ((epoch, incarnation),) = connection.execute(owned, (WUNING,))
        rows = list(backlog.rows(count, epoch, incarnation))
        with connection:
            connection.executemany(INSERT, rows)
    waiting = "SELECT count(*) FROM mesh_outbox WHERE number IS NULL"
    numbers = f"SELECT numbered, published FROM mesh_relay WHERE region = '{WUNING}' AND epoch = {epoch}"

    def last() -> int:
        ((numbered, published),) = node.rows(numbers)
        return int(numbered) if numbered == published and node.rows(waiting) == [(0,)] else 0

    return int(until(last, 180))


def _number(node: Node) -> int:
    """How far a node's copy of the county is."""
    return int(node.rows(f"SELECT coalesce(max(number), 0) FROM mesh_cursor WHERE region = '{WUNING}'")[0][0])


def _resident(node: Node) -> dict[str, float]:
    return {child.name: child.rss_bytes / 1e6 for child in local.children(node.data)}


def _catchup(mesh: Mesh, backlog: Backlog, count: int, kind: str) -> figures.Figure:
    """The province, whose database is of that kind, is away while the county goes on, and comes back."""
    mesh.province.stop()
    last = _put(mesh.wuning, backlog, count)
    first = _number(mesh.province)
    before, most = _resident(mesh.wuning), dict[str, float]()
    started = time.perf_counter()
    mesh.province.start()
    up, begun, now = time.perf_counter() - started, 0.0, first
    while now < last:
        now = _number(mesh.province)
        if not begun and now > first:
            begun, first = time.perf_counter(), now
        for name, size in _resident(mesh.wuning).items():
            most[name] = max(size, most.get(name, 0.0))
        assert time.perf_counter() - started < 600, now
        time.sleep(0.05)
    ended = time.perf_counter()
    added = most["services"] - before["services"]
    about = {
        "events": f"{count}, from when the first batch was there",
        "from the province's start": f"ready after {up:.1f} s, all there after {ended - started:.1f} s",
        "the county's services": f"{before['services']:.0f} MB before, at most {most['services']:.0f} MB, "
        f"{added:.0f} more (target: less than 50)",
        "the county's broker": f"{before['nats']:.0f} MB before, at most {most['nats']:.0f} MB",
        "the province's database": places.DURABILITY[kind],
        "the county's": places.DURABILITY["sqlite"], "line": "on this machine; both nodes share its cores",
        "load average": figures.load_average(),
    }  # fmt: skip
    rate = (last - first) / (ended - begun)
    name = "mesh.catchup" if kind == "sqlite" else f"mesh.catchup.{kind}"
    return figures.Figure(name, round(rate), "events/s", None, None, about)


def _slow(mesh: Mesh, backlog: Backlog, count: int) -> figures.Figure:
    """Calls go down to the county while its backlog comes up the same slow line."""
    record, token = _filed(mesh.wuning, WUNING, mesh.wuning.token("CZ")), mesh.wuning.token("KA")
    mesh.line.cut()
    last = _put(mesh.wuning, backlog, count)
    first, sent = _number(mesh.province), mesh.line.bytes_up
    mesh.line.throttle(SLOW_BYTES)
    mesh.line.restore()
    taken, failed = list[float](), 0
    with _get(mesh.province, record, token) as call:
        until(lambda: _answers(call), 60)
        begun = time.perf_counter()
        while time.perf_counter() - begun < SLOW_S and _number(mesh.province) < last:
            asked = time.perf_counter()
            failed += not _answers(call)
            taken.append(time.perf_counter() - asked)
            time.sleep(0.1)
    seconds, at = time.perf_counter() - begun, _number(mesh.province)
    used = (mesh.line.bytes_up - sent) / seconds / 1024
    about: dict[str, Any] = {
        "what": f"GetReport from the province with {OWNERS[0][0]}: owner while a backlog is copied",
        "line": f"{SLOW_BYTES // 1024} KiB/s each way, of which upwards {used:.0f} were used",
        "backlog": f"{count} events, {at - first} of them copied in {seconds:.0f} s",
        "calls": f"median of {len(taken)}, one after another; {failed} failed",
        "worst": f"{max(taken):.2f} s", "over 1 s": sum(t > 1 for t in taken), "target": "at most 1",
        "not measured": "whether an urgent domain overtakes: there is one domain",
        "load average": figures.load_average(),
    }  # fmt: skip
    mesh.line.throttle(0)
    return figures.Figure("mesh.slow", round(statistics.median(taken), 3), "s", None, None, about)
