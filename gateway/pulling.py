"""Pulling: for each node at the other end of a line, one batch at a time, urgent domains first. Separate from
what a batch becomes (`copies`), and from the lines."""

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from mesh import (
    bus,
    config,
    copies,
    errors,
    events,
    links,
    metrics,
    reconciling,
    regions,
    replication,
    resources,
)
from mesh.links import Links
from mesh.store import Store
from village.mesh.v1 import link_pb2 as pb

LOOK_S = 1.0
POLL_S, URGENT_POLL_S = 4.0, 1.0
"""How often a log is asked for that nobody said has grown."""
TIMEOUT_S, DOUBT_S = 15.0, 2.0
"""How long a batch may take, and after how long it is asked whether it is still under way."""
LEAST_BYTES, MOST_BYTES = 48 * 1024, replication.MOST_BYTES
QUICK_S, SLOW_S = 0.1, 0.4
"""A batch that took less is followed by a larger one, one that took more by a smaller one, so that on a poor
line an urgent event waits for little."""
NODE = "/village.mesh.v1.DirectoryService/GetNode"
log = logging.getLogger(__name__)


@dataclasses.dataclass
class _Target:
    """One log at the other end of a line."""

    region: str
    domain: str
    urgent: bool
    keep: Any
    """Where its rows go: `Copies` or `Passing`."""
    marked: bool = True
    asked: float = 0.0
    behind: bool = True
    fresh: float = dataclasses.field(default_factory=time.monotonic)
    """When all of it was last here."""

    def due(self, now: float) -> bool:
        """Whether it is worth asking for."""
        return self.marked or self.behind or now - self.asked > (URGENT_POLL_S if self.urgent else POLL_S)


class Passing:
    """The events of a domain that this node does not run: they go to its broker for its own subscribers, and
    only the cursor is kept. The broker drops what it has already."""

    def __init__(self, store: Store, domain: str, url: str) -> None:
        self._store, self._domain, self._url = store, domain, url
        self._client: Any = None
        self._table = store.plumbing.cursor

    def cursor(self, region: str) -> copies.Cursor:
        """Where the log stands."""
        found = self._store.lookup(self._table, region=region, domain=self._domain)
        if found is None:
            return copies.Cursor()
        return copies.Cursor(found["epoch"], found["incarnation"], found["number"], found["high_water"])

    async def take(self, region: str, node: str, answer: pb.PullLogResponse) -> int:
        """Publishes a batch, then moves the cursor: a crash between the two publishes it again."""
        at = await asyncio.to_thread(self.cursor, region)
        before = at.number if (answer.epoch, answer.incarnation) == (at.epoch, at.incarnation) else 0
        before = max(before, answer.floor - 1)  # what is trimmed there is lost to subscribers here
        rows = copies.unpacked(answer.rows)
        copies.follow(rows, before)
        if rows and self._store.cramped():
            raise errors.DiskFull(what="the broker")
        if self._client is None:
            self._client = await bus.connect(self._url)
            await bus.ensure_stream(self._client, self._domain)
        begins = f"village.{regions.tokens(region)}.{self._domain}."
        messages = [self._message(region, answer, row) for row in rows if row.subject.startswith(begins)]
        for start in range(0, len(messages), 500):
            await bus.publish(self._client, messages[start : start + 500])
        values = {
            "region": region, "domain": self._domain, "node": node, "epoch": answer.epoch,
            "incarnation": answer.incarnation, "number": rows[-1].number if rows else before,
            "high_water": answer.high_water,
            "read_time": self._store.instant(resources.moment(answer.read_time)),
            "refused": len(rows) - len(messages), "trouble": "",
        }  # fmt: skip
        await asyncio.to_thread(lambda: self._store.replace(self._table, values, key="region, domain"))
        return len(rows)

    def note(self, region: str, node: str, why: str) -> None:
        """Says what keeps it from going on."""
        about = {"region": region, "domain": self._domain, "node": node, "why": why}
        log.warning("a log is not passed on", extra={"about": about})

    def _message(self, region: str, answer: pb.PullLogResponse, row: pb.LogRow) -> bus.Message:
        found = events.headers(
            event_id=row.event_id, kind=row.type, region=region, domain=self._domain, name=row.name,
            time=resources.moment(row.time), epoch=answer.epoch, incarnation=answer.incarnation,
            number=row.number, trace=row.trace, audit_digest=row.audit_digest,
        )  # fmt: skip
        return row.subject, found, row.payload


class Keeping:
    """The events of a domain that this node runs: see `Copies`."""

    def __init__(self, source: replication.Source, lines: Links) -> None:
        self.copies, self._source = copies.Copies(source.store), source
        self._reconciler = reconciling.Reconciler(source.store, lines)

    def cursor(self, region: str) -> copies.Cursor:
        """Where the log stands."""
        return self.copies.cursor(region)

    async def take(self, region: str, node: str, answer: pb.PullLogResponse) -> int:
        """Writes a batch. Where the log no longer reaches back, or its owner was restored from a backup, all
        is compared first."""
        at = await asyncio.to_thread(self.copies.cursor, region)
        same = (answer.epoch, answer.incarnation) == (at.epoch, at.incarnation)
        if (answer.floor > (at.number if same else 0) + 1) or (answer.epoch == at.epoch and not same):
            await asyncio.to_thread(self._reconciler.reconcile, region, node)
            await asyncio.to_thread(self.copies.jump, region, node, answer)
        count = await asyncio.to_thread(self.copies.apply, region, node, answer)
        if count:
            self._source.grown()
        return count

    def note(self, region: str, node: str, why: str) -> None:
        """Says what keeps it from going on."""
        self.copies.note(region, node, why)


class Puller:
    """Everything that this process copies. `own`: the node's own store, which keeps cursors of what the node
    only passes on, as it does with the domains that none of its processes runs."""

    def __init__(
        self,
        lines: Links,
        sources: Sequence[replication.Source],
        own: Store | None,
        settings: config.Settings,
    ) -> None:
        self._lines, self._directory = lines, lines.directory
        self._sources: Mapping[str, replication.Source] = {s.domain: s for s in sources}
        self._own, self._settings = own, settings
        self._targets: dict[str, dict[tuple[str, str], _Target]] = {}
        self._woken: dict[str, asyncio.Event] = {}
        self._keeps: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}
        lines.marked = self.marked

    def marked(self, node: str, domain: str) -> None:
        """A node says that a log of its domain has grown."""
        for target in self._targets.get(node, {}).values():
            if target.domain == domain:
                target.marked = True
        if node in self._woken:
            self._woken[node].set()

    async def run(self) -> None:
        """Pulls for ever; a task for each line."""
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                wanted = self._wanted()
                for node, logs in wanted.items():
                    known = self._targets.setdefault(node, {})
                    self._targets[node] = {key: known.get(key) or target for key, target in logs.items()}
                    if node not in tasks:
                        self._woken[node] = asyncio.Event()
                        tasks[node] = asyncio.create_task(self._follow(node))
                for node in [n for n in tasks if n not in wanted]:
                    tasks.pop(node).cancel()
                    del self._targets[node]
                for target in (t for logs in self._targets.values() for t in logs.values()):
                    age = time.monotonic() - target.fresh
                    metrics.copy_age.labels(target.domain, target.region).set(age)
                await asyncio.sleep(LOOK_S)
        finally:
            for task in tasks.values():
                task.cancel()

    def _wanted(self) -> dict[str, dict[tuple[str, str], _Target]]:
        """The logs to copy, by the node to ask."""
        view, me = self._directory.view, self._directory.region
        found: dict[str, dict[tuple[str, str], _Target]] = {}
        if self._directory.is_province:
            for (region, domain), grant in view.grants.items():
                node = view.nodes.get(grant.node)
                if grant.node != me and node is not None and not node.revoked and domain in self._sources:
                    found.setdefault(grant.node, {})[region, domain] = self._target(region, domain)
        elif view.province:
            above = [r for r in view.regions() if regions.contains(r, me) and r != me]
            logs = found.setdefault(view.province, {})
            for domain in sorted({*self._sources, *view.domains}):
                for region in (*above, me):
                    if view.owner(region, domain) != me and self._keep(domain) is not None:
                        logs[region, domain] = self._target(region, domain)
        return found

    def _target(self, region: str, domain: str) -> _Target:
        source = self._sources.get(domain)
        return _Target(region, domain, source.urgent if source else False, self._keep(domain))

    def _keep(self, domain: str) -> Any:
        if domain not in self._keeps:
            source = self._sources.get(domain)
            if source is not None:
                self._keeps[domain] = Keeping(source, self._lines)
            elif self._own is not None and domain not in self._settings.runs:
                self._keeps[domain] = Passing(self._own, domain, self._settings.nats_url)
            else:
                self._keeps[domain] = None
        return self._keeps[domain]

    async def _follow(self, node: str) -> None:
        pause = 0.2
        while True:
            self._woken[node].clear()
            try:
                moved = await self._round(node)
                pause = 0.2
            except (errors.Unavailable, errors.DeadlineExceeded):  # the line is away, or slow
                with contextlib.suppress(TimeoutError):  # whoever says that a log has grown is back
                    await asyncio.wait_for(self._woken[node].wait(), pause)
                pause = min(pause * 2, 3.0)
                continue
            except Exception as fault:  # whatever it is, the other lines and this one must go on
                log.warning(
                    "pulling waits", extra={"about": {"node": node, "why": repr(fault)}}, exc_info=fault
                )
                await asyncio.sleep(pause)
                pause = min(pause * 2, 3.0)
                continue
            if not moved:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken[node].wait(), 0.25)

    async def _round(self, node: str) -> bool:
        """One batch of each log that is worth asking for; before each, what is urgent. Whether any had
        more."""
        moved = False
        targets = sorted(self._targets.get(node, {}).values(), key=lambda t: (t.domain, t.region))
        for target in targets:
            for urgent in (t for t in targets if t.urgent):
                while urgent.due(time.monotonic()) and await self._pull(node, urgent):
                    moved = True
            if not target.urgent and target.due(time.monotonic()):
                moved = await self._pull(node, target) or moved
        return moved

    async def _asked(self, node: str, path: str, raw: bytes) -> bytes:
        """A batch. One that went down with its line is not waited for: what is asked later is answered later,
        so when something asked later is answered first, the batch will not come."""
        batch = asyncio.ensure_future(self._lines.ask(node, path, raw, {}, TIMEOUT_S))
        try:
            while not (await asyncio.wait({batch}, timeout=DOUBT_S))[0]:
                if self._directory.is_province:
                    later = asyncio.ensure_future(self._lines.ask(node, NODE, b"", {}, TIMEOUT_S))
                    later.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen
                    await asyncio.wait({batch, later}, return_when=asyncio.FIRST_COMPLETED)
                    if not batch.done():
                        self._sizes[node] = LEAST_BYTES  # of a larger one a part may have come
                        later.result()
                        raise errors.DeadlineExceeded
                    later.cancel()
            return batch.result()[0]
        finally:
            batch.cancel()

    async def _pull(self, node: str, target: _Target) -> bool:
        """Asks for a batch and writes it; whether there is more."""
        keep, size = target.keep, self._sizes.get(node, replication.BATCH_BYTES)
        at = await asyncio.to_thread(keep.cursor, target.region)
        request = pb.PullLogRequest(
            parent=f"regions/{target.region}", epoch=at.epoch, incarnation=at.incarnation, after=at.number,
            max_bytes=size,
        )  # fmt: skip
        target.marked, target.asked, asked = False, time.monotonic(), resources.utcnow()
        path = f"/village.{target.domain}.v1.LogService/PullLog"
        begun = time.monotonic()
        try:
            raw = await self._asked(node, path, request.SerializeToString())
        except links.NotBelieved as refusal:
            target.behind = False
            await asyncio.to_thread(keep.note, target.region, node, str(refusal))
            return False
        except errors.Passed as refusal:
            target.behind = False
            if refusal.code != errors.NOT_FOUND:
                await asyncio.to_thread(keep.note, target.region, node, refusal.status.message)
            return False
        except errors.Refusal:
            target.marked = True  # what was said while the line was away is lost: ask as soon as it is back
            raise
        took = time.monotonic() - begun
        try:
            answer = pb.PullLogResponse.FromString(raw)
            # by this node's clock, which whoever reads the copy goes by: the sender's may be hours off
            answer.read_time.CopyFrom(resources.stamp(asked))
            if took < QUICK_S and len(answer.rows) > size // 16:
                self._sizes[node] = min(size * 2, MOST_BYTES)
            elif took > SLOW_S:
                self._sizes[node] = max(size // 2, LEAST_BYTES)
            count = await keep.take(target.region, node, answer)
        except (copies.BadBatch, DecodeError, ValueError, OverflowError) as fault:  # the other logs go on
            about = {"node": node, "region": target.region, "domain": target.domain, "why": str(fault)}
            log.warning("a batch is refused", extra={"about": about})
            await asyncio.to_thread(keep.note, target.region, node, str(fault))
            target.behind = False
            return False
        now_at = (
            at.number if answer.epoch == at.epoch and answer.incarnation == at.incarnation else 0
        ) + count
        target.behind = now_at < answer.high_water
        if not target.behind:
            target.fresh = time.monotonic()
        metrics.behind.labels(target.domain, target.region).set(max(answer.high_water - now_at, 0))
        return target.behind
