"""Which (region, domain) pairs this node owns, and at which epoch. Separate, because a write is refused
here first and, for certain, in the commit that locks the row."""

import dataclasses

from mesh import errors
from mesh.database import Database
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

    def read(self) -> None:
        """Reads them again, at start and whenever a commit was refused."""
        rows = self._database.select(self._table.select())
        self._held = {
            row.region: Grant(row.region, row.domain, row.epoch, row.incarnation)
            for row in rows
            if row.domain == self._domain and not row.frozen
        }

    def of(self, region: str) -> Grant:
        """The grant for a region; NotOwnedHere without one."""
        grant = self._held.get(region)
        if grant is None:
            raise errors.NotOwnedHere(region=region)
        return grant

    def all(self) -> list[Grant]:
        return list(self._held.values())
