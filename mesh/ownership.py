"""Which (region, domain) pairs this node owns, and at which epoch. Separate, because a write is refused
here first and, for certain, in the commit that locks the row."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from mesh import errors, trust
from mesh.database import LANES, Database
from mesh.tables import Plumbing


@dataclasses.dataclass(frozen=True)
class Grant:
    """A pair that this node owns."""

    region: str
    domain: str
    epoch: int
    incarnation: int


class Grants:
    """The pairs that one domain's database says this node owns. Kept in memory as a hint: the commit
    decides."""

    def __init__(self, database: Database, own: Plumbing, domain: str) -> None:
        self._database, self._table, self._domain = database, own.ownership, domain
        self._held: dict[str, Grant] = {}
        self.version = 0
        """Counts up when what is held has changed."""

    def read(self) -> None:
        """Reads them again, at start and whenever a commit was refused."""
        t = self._table
        rows = self._database.select(t.select())
        if not self._database.sqlite and len(rows) != LANES * len({(r.region, r.domain) for r in rows}):
            self._database.change(self._lock(), *map(self._lane, range(1, LANES)))
            rows = self._database.select(t.select())
        held = {
            row.region: Grant(row.region, row.domain, row.epoch, row.incarnation)
            for row in rows
            if row.domain == self._domain and not row.frozen
        }
        if held != self._held:
            self._held, self.version = held, self.version + 1

    def of(self, region: str) -> Grant:
        """The grant for a region; NotOwnedHere without one."""
        grant = self._held.get(region)
        if grant is None:
            raise errors.NotOwnedHere(region=region)
        return grant

    def owned(self, region: str) -> bool:
        """Whether this node accepts writes for a region."""
        return region in self._held

    def all(self) -> list[Grant]:
        return list(self._held.values())

    def adopt(self, view: trust.View, node: str) -> bool:
        """Brings the database in line with the directory: what this node was granted it takes, what is
        another node's it leaves. An earlier epoch never overrides a later one. Whether anything changed."""
        t = self._table
        rows = {r.region: r for r in self._database.select(t.select().where(t.c.domain == self._domain))}
        work: list[Any] = []
        for region in view.regions():
            row, epoch = rows.get(region), view.epoch(region, self._domain)
            mine = view.owner(region, self._domain) == node
            key = sa.and_(t.c.region == region, t.c.domain == self._domain)
            if mine and row is None:
                work.append(t.insert().values(region=region, domain=self._domain, epoch=epoch, incarnation=1,
                                              frozen=False))  # fmt: skip
            elif mine and row is not None and row.epoch < epoch:
                work.append(t.update().where(key, t.c.epoch < epoch).values(epoch=epoch, incarnation=1,
                                                                          frozen=False))  # fmt: skip
            elif not mine and row is not None and not row.frozen and row.epoch <= epoch:
                work.append(t.update().where(key, t.c.epoch <= epoch).values(frozen=True))
        self._do(work)
        return bool(work)

    def row(self, region: str) -> Any:
        """What the database says of a region, frozen or not; None when it knows none."""
        t = self._table
        rows = self._database.select(t.select().where(t.c.region == region, t.c.domain == self._domain))
        return rows[0] if rows else None

    def freeze(self, region: str, *, frozen: bool = True) -> int:
        """Ends, or begins again, this node's right to write for a region; its epoch, 0 when it has none. A
        commit that is under way is waited for, later ones are refused."""
        t = self._table
        key = sa.and_(t.c.region == region, t.c.domain == self._domain)
        self._do([t.update().where(key).values(frozen=frozen)])
        rows = self._database.select(sa.select(t.c.epoch).where(key))
        return int(rows[0][0]) if rows else 0

    def _lock(self) -> Any:
        """What a change of any lane begins with, so that none is added meanwhile that it does not see."""
        t = self._table
        return sa.select(t.c.region).where(t.c.domain == self._domain, t.c.lane == 0).with_for_update()

    def _lane(self, lane: int) -> Any:
        """Adds a lane to whichever pair lacks it."""
        first, other = self._table.alias("first"), self._table.alias("other")
        pair = other.c.region == first.c.region, other.c.domain == first.c.domain
        columns = [sa.literal_column(str(lane)) if c.name == "lane" else first.c[c.name] for c in first.c]
        there = sa.exists().where(*pair, other.c.lane == sa.literal_column(str(lane)))
        missing = sa.select(*columns).where(first.c.lane == sa.literal_column("0"), ~there)
        return sa.insert(self._table).from_select([c.name for c in first.c], missing)

    def _do(self, work: Sequence[Any]) -> None:
        if work:
            self._database.change(self._lock(), *work)
        self.read()
