"""The order in which logs are pulled over one line (architecture: urgent domains overtake)."""

import asyncio
import types
import zlib
from typing import Any

from gateway import pulling
from mesh import copies
from village.mesh.v1 import bundle_pb2, link_pb2

PROVINCE, COUNTY = "360000", "360423"
BATCH, BACKLOG = 10, 400


class Log:
    """A log at the county, pulled in batches of 10, and how far it is copied."""

    def __init__(self, last: int) -> None:
        self.last, self.number = last, 0

    def cursor(self, _region: str) -> copies.Cursor:
        return copies.Cursor(1, 1, self.number, self.last)

    async def take(self, _region: str, _node: str, answer: link_pb2.PullLogResponse) -> int:
        count = len(copies.unpacked(answer.rows))
        self.number += count
        return count


class Line:
    """A line on which one batch takes 10 ms."""

    def __init__(self, logs: dict[str, Log]) -> None:
        self.asked: list[str] = []
        self.at_once = self.most = 0
        self._logs = logs
        view = types.SimpleNamespace(
            province=PROVINCE,
            nodes={COUNTY: bundle_pb2.NodeEntry(region=COUNTY)},
            grants={(COUNTY, d): bundle_pb2.GrantEntry(region=COUNTY, domain=d, node=COUNTY) for d in logs},
            domains=tuple(logs),
        )
        self.directory = types.SimpleNamespace(view=view, region=PROVINCE, is_province=True)
        self.marked: Any = None

    async def ask(self, _node: str, path: str, raw: bytes, _headers: Any, _timeout: float) -> Any:
        domain, after = path.split(".")[1], link_pb2.PullLogRequest.FromString(raw).after
        self.asked.append(domain)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0.01)
        self.at_once -= 1
        last = self._logs[domain].last
        numbers = range(after + 1, min(after + BATCH, last) + 1)
        rows = link_pb2.LogRows(rows=[link_pb2.LogRow(number=n) for n in numbers])
        answer = link_pb2.PullLogResponse(epoch=1, incarnation=1, high_water=last)
        answer.rows = zlib.compress(rows.SerializeToString())
        return answer.SerializeToString(), {}


async def _while_bulk_is_pulled() -> tuple[Line, int]:
    """The line, and how many questions lay between the urgent event and its being asked for."""
    logs = {"habitat": Log(BACKLOG), "culture": Log(BACKLOG), "emergency": Log(0)}
    line = Line(logs)
    sources: Any = [
        types.SimpleNamespace(domain=domain, urgent=domain == "emergency", store=None) for domain in logs
    ]
    puller = pulling.Puller(line, sources, None, None)  # type: ignore[arg-type]
    puller._keeps.update(logs)
    running = asyncio.ensure_future(puller.run())
    try:
        while logs["habitat"].number < BACKLOG // 4:
            await asyncio.sleep(0.005)
        logs["emergency"].last = 1
        begun = len(line.asked)
        line.marked(COUNTY, "emergency")
        while not logs["emergency"].number:
            await asyncio.sleep(0.001)
        between = line.asked[begun:].index("emergency")
        assert logs["habitat"].number < BACKLOG  # the bulk was under way
        while any(log.number < log.last for log in logs.values()):
            await asyncio.sleep(0.01)
    finally:
        running.cancel()
    return line, between


def test_an_urgent_event_waits_for_one_batch_at_most_and_batches_never_share_the_line() -> None:
    line, between = asyncio.run(asyncio.wait_for(_while_bulk_is_pulled(), 30))
    assert between <= 1  # at most what was being asked for at that moment
    assert line.most == 1
    assert {"habitat", "culture"} <= set(line.asked[:6])  # what is not urgent takes turns


async def _while_one_node_answers_nonsense() -> dict[str, Log]:
    logs = {"culture": Log(BATCH), "habitat": Log(BATCH)}
    line = Line(logs)
    honest, told = line.ask, list[str]()
    logs["culture"].note = lambda _region, _node, why: told.append(why)  # type: ignore[attr-defined]

    async def ask(node: str, path: str, raw: bytes, headers: Any, timeout: float) -> Any:
        answer = await honest(node, path, raw, headers, timeout)
        return (b"\xff\xff", {}) if "culture" in path else answer

    line.ask = ask  # type: ignore[method-assign]
    sources: Any = [types.SimpleNamespace(domain=domain, urgent=False, store=None) for domain in logs]
    puller = pulling.Puller(line, sources, None, None)  # type: ignore[arg-type]
    puller._keeps.update(logs)
    running = asyncio.ensure_future(puller.run())
    try:
        while logs["habitat"].number < BATCH or not told:
            await asyncio.sleep(0.01)
    finally:
        running.cancel()
    return logs


def test_an_answer_that_is_none_holds_up_no_other_log() -> None:
    logs = asyncio.run(asyncio.wait_for(_while_one_node_answers_nonsense(), 20))
    assert (logs["culture"].number, logs["habitat"].number) == (0, BATCH)
