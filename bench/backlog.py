"""A county's log as it is when its province has been away: real events of reports that were filed, accepted,
assigned and started, and copies of them with names and ids of their own. Separate from what is measured with
it."""

import dataclasses
import itertools
import pathlib
import sqlite3
import uuid
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from bench import places
from mesh import copies, events, outbox, replication, resources
from mesh.store import Store
from tests.county import REGION, VILLAGE_UNIT, County
from village.habitat.v1 import report_pb2 as pb
from village.mesh.v1 import link_pb2
from village.type.v1 import level_pb2

REAL, WAVE = 25, 1000
"""Reports that really were; and how many are filed before the first of them is accepted, so that no batch
holds two events of one report."""
COLUMNS = "event_id, region, epoch, incarnation, type, subject, name, time, trace, audit_digest, payload"
INSERT = f"INSERT INTO mesh_outbox ({COLUMNS}) VALUES ({', '.join('?' * 11)})"


@dataclasses.dataclass
class Backlog:
    """Rows of an outbox, as many as are asked for."""

    folder: pathlib.Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.path = self.folder / "county.db"
        self._county = County(self.folder, f"sqlite:///{self.path}")
        self._county.now = resources.utcnow()
        call, parent = self._county.call, f"regions/{REGION}"
        filing = pb.FileReportRequest(parent=parent, report=places.report())
        names = [call("resident", filing).name for _ in range(REAL)]
        unit = {"level": level_pb2.LEVEL_VILLAGE, "unit": VILLAGE_UNIT, "unit_title": "某村村民委员会"}
        for name in names:
            call("county", pb.AcceptReportRequest(name=name))
            call("county", pb.AssignReportRequest(name=name, **unit))
            call("village", pb.StartReportRequest(name=name))
        found: dict[str, list[Any]] = {}
        rows = "SELECT type, subject, name, time, trace, audit_digest, payload FROM mesh_outbox ORDER BY id"
        for kind, subject, name, *rest in self._county.store.database.select(sa.text(rows)):
            if name in names:
                found.setdefault(name, []).append((kind, subject, *rest))
        self._lives = list(found.values())
        (self._steps,) = {len(life) for life in self._lives}

    @property
    def store(self) -> Store:
        """The county's own."""
        return self._county.store

    def rows(self, count: int, epoch: int = 1, incarnation: int = 1) -> Iterator[tuple[Any, ...]]:
        """Values for INSERT."""
        return itertools.islice(self._endless(epoch, incarnation), count)

    def _endless(self, epoch: int, incarnation: int) -> Iterator[tuple[Any, ...]]:
        while True:
            names = [f"regions/{REGION}/reports/{uuid.uuid4()}" for _ in range(WAVE)]
            for step, (n, name) in itertools.product(range(self._steps), enumerate(names)):
                kind, subject, time, trace, digest, payload = self._lives[n % REAL][step]
                cls = events.class_of(kind)
                assert cls is not None
                event: Any = cls.FromString(payload)
                event.report.name = name
                raw = event.SerializeToString(deterministic=True)
                own = uuid.uuid4().hex
                yield (own, REGION, epoch, incarnation, kind, subject, name, time, trace, digest, raw)

    def answers(self, count: int) -> list[link_pb2.PullLogResponse]:
        """What a province would be answered, batch after batch, of the largest size."""
        store = self.store
        with sqlite3.connect(self.path) as connection:
            connection.execute("DELETE FROM mesh_outbox")
            connection.executemany(INSERT, self.rows(count))
        connection.close()
        log = outbox.Log(store, store.grants.all()[0])
        log.take_over()
        while log.number():
            pass
        headers, found = self._county.as_node(), list[link_pb2.PullLogResponse]()
        after = 0
        while after < count:
            request = link_pb2.PullLogRequest(
                parent=f"regions/{REGION}", epoch=1, incarnation=1, after=after,
                max_bytes=replication.MOST_BYTES,
            )  # fmt: skip
            raw = self._county.raw("PullLog", request.SerializeToString(), headers)
            found.append(link_pb2.PullLogResponse.FromString(raw))
            after = copies.unpacked(found[-1].rows)[-1].number
        return found

    def close(self) -> None:
        self._county.close()
