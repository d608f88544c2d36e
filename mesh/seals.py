"""Seals on the audit trail: batches of rows under a Merkle root, chained by their heads, the heads signed
with a key that the database's administrator does not hold; and the proof of it. Separate from `audit`,
because it runs beside calls, and its proof runs without them."""

import base64
import dataclasses
import datetime
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from mesh import audit, resources, statements
from mesh.database import Database
from mesh.tables import Plumbing

BATCH = 5_000
LEAF = 40

Leaf = tuple[int, str]
"""Id and digest of a row of the trail."""


@dataclasses.dataclass(frozen=True)
class Seal:
    """One batch as it is stored. `head` is what is signed: a digest over this seal and the head before."""

    number: int
    time: str
    previous: str
    root: str
    head: str
    signature: str
    leaves: tuple[Leaf, ...] = ()

    def anchor(self) -> dict[str, Any]:
        """What is kept elsewhere of it."""
        return {"number": self.number, "time": self.time, "head": self.head, "signature": self.signature}


def root(leaves: Iterable[Leaf]) -> str:
    """The Merkle root (RFC 6962) over ids and digests."""
    level = [hashlib.sha256(b"\0" + _raw(*leaf)).digest() for leaf in leaves]
    while len(level) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        level = [hashlib.sha256(b"\1" + p[0] + p[1]).digest() if len(p) == 2 else p[0] for p in pairs]
    return level[0].hex() if level else ""


def head(domain: str, number: int, time: str, previous: str, root_: str) -> str:
    """SHA-256 over a seal and the head before it."""
    return hashlib.sha256(orjson.dumps([domain, number, time, previous, root_])).hexdigest()


def _raw(id_: int, digest: str) -> bytes:
    return id_.to_bytes(8) + bytes.fromhex(digest)


def _leaves(raw: bytes) -> tuple[Leaf, ...]:
    parts = (raw[i : i + LEAF] for i in range(0, len(raw), LEAF))
    return tuple((int.from_bytes(part[:8]), part[8:].hex()) for part in parts)


def private_key(path: pathlib.Path) -> ed25519.Ed25519PrivateKey:
    """The key of a file in PEM; stops the process when it is none."""
    try:
        found = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError) as fault:
        raise SystemExit(f"villagemesh: the audit key {path} cannot be used: {fault!r}") from fault
    if not isinstance(found, ed25519.Ed25519PrivateKey):
        raise SystemExit(f"villagemesh: the audit key {path} is not of Ed25519")
    return found


class Anchors:
    """Heads kept outside the database: a file of JSON lines per domain, only ever added to."""

    def __init__(self, folder: pathlib.Path, domain: str) -> None:
        self._path = folder / f"{domain}.jsonl"

    def add(self, seal: Seal) -> None:
        with self._path.open("ab") as file:
            file.write(orjson.dumps(seal.anchor()) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[dict[str, Any]]:
        """Every head; a line that broke off with the power is left out."""
        lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        return [orjson.loads(line) for line in lines if line.endswith(b"\n")]


class Sealer:
    """Seals one domain's trail. Heads also go to `anchor`, which keeps them elsewhere."""

    def __init__(
        self,
        database: Database,
        own: Plumbing,
        domain: str,
        key: ed25519.Ed25519PrivateKey,
        anchor: Callable[[Seal], None],
    ) -> None:
        self._database, self._domain, self._key, self._anchor = database, domain, key, anchor
        trail, seals = own.audit, own.seal
        unsealed = sa.select(trail.c.id).where(trail.c.seal.is_(None)).order_by(trail.c.id)
        self._statements: dict[str, Any] = {
            "last seal": sa.select(seals.c.number, seals.c.head)
            .order_by(seals.c.number.desc())
            .limit(sa.literal_column("1"))
            .offset(sa.literal_column("0")),  # else SQLite adds a parameter of its own
            # without a seal, never behind the last one: commits end in any order
            "mark sealed": sa.update(trail)
            .where(
                trail.c.id.in_(unsealed.limit(sa.literal_column(str(BATCH))).offset(sa.literal_column("0")))
            )
            .values(seal=sa.bindparam("number", type_=sa.BigInteger))
            .returning(trail.c.id, trail.c.digest),
            "keep seal": statements.insert(seals, tuple(seals.columns.keys()), ""),
        }

    def seal(self, now: datetime.datetime) -> int:
        """Seals what is not sealed yet, at most a batch; how many rows."""
        made = self._database.transact(lambda cursor: self._seal(cursor, now))
        if made is None:
            return 0
        self._anchor(made)
        return len(made.leaves)

    def _run(self, cursor: Any, name: str, **values: Any) -> Any:
        sql = self._database.prepare(name, lambda: self._statements[name])
        return self._database.run(cursor, sql, values)

    def _seal(self, cursor: Any, now: datetime.datetime) -> Seal | None:
        last, previous = self._run(cursor, "last seal").fetchone() or (0, "")
        marked = self._run(cursor, "mark sealed", number=last + 1).fetchall()
        if not marked:
            return None
        leaves = tuple(sorted((int(id_), str(digest)) for id_, digest in marked))
        time, root_ = resources.instant(now, sqlite=True), root(leaves)
        head_ = head(self._domain, last + 1, time, previous, root_)
        signature = base64.b64encode(self._key.sign(bytes.fromhex(head_))).decode()
        made = Seal(last + 1, time, previous, root_, head_, signature, leaves)
        stored = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
        moment = resources.instant(now, sqlite=self._database.sqlite)
        raw = b"".join(_raw(*leaf) for leaf in leaves)
        self._run(cursor, "keep seal", **{**stored, "time": moment, "leaves": raw})
        return made


# the proof


@dataclasses.dataclass(frozen=True)
class Proof:
    """What a trail proves. `wrong`: what was found, row by row, in words."""

    rows: int
    unsealed: int
    sealed_to: int
    proven_to: int
    """The last seal up to which chain and signatures hold and every row is as it was."""
    proven_until: str
    anchored_to: int
    """The last seal whose head is kept elsewhere; what lies behind could still be rewritten with the key."""
    wrong: tuple[str, ...]


def verify(
    database: Database,
    own: Plumbing,
    domain: str,
    keys: Sequence[ed25519.Ed25519PublicKey],
    anchors: Sequence[dict[str, Any]],
) -> Proof:
    """Goes through the whole trail."""
    wrong: list[str] = []
    chain = _Chain(domain, keys)
    seals, trail = own.seal, own.audit
    proven, until, seen, sealed = 0, "", 0, 0
    for row in _rows(database, seals, seals.c.number):
        time = resources.instant(resources.when(row.time), sqlite=True)
        found = Seal(row.number, time, row.previous, row.root, row.head, row.signature, _leaves(row.leaves))
        batch = database.select(sa.select(trail).where(trail.c.seal == row.number).order_by(trail.c.id))
        seen, sealed = seen + len(batch), row.number
        faults = [*chain.follow(found), *_compare(found, batch)]
        wrong += faults
        if not faults and proven == row.number - 1:
            proven, until = row.number, time
    anchored = 0
    for anchor in anchors:
        kept = chain.heads.get(anchor["number"])
        if kept is None:
            wrong.append(f"seal {anchor['number']} of {anchor['time']} is gone: the trail was truncated")
        elif kept != anchor["head"]:
            wrong.append(f"seal {anchor['number']} is not the one that was anchored: the trail was rewritten")
        else:
            anchored = max(anchored, anchor["number"])
    waiting = database.select(sa.select(trail).where(trail.c.seal.is_(None)).order_by(trail.c.id))
    wrong += [f"row {row.id} was altered" for row in waiting if not _genuine(row)]
    stray = sa.select(trail.c.id).where(
        trail.c.seal.is_not(None), trail.c.seal.not_in(sa.select(seals.c.number))
    )
    wrong += [f"row {id_} names a seal that is gone" for (id_,) in database.select(stray)]
    rows = seen + len(waiting)
    return Proof(rows, len(waiting), sealed, proven, until, anchored, tuple(wrong))


def _rows(database: Database, table: sa.Table, key: Any) -> Iterator[Any]:
    """A table in the order of its key, a part at a time."""
    last = -1
    while part := database.select(sa.select(table).where(key > last).order_by(key).limit(100)):
        yield from part
        last = part[-1].number


class _Chain:
    """Follows heads from the first on."""

    def __init__(self, domain: str, keys: Sequence[ed25519.Ed25519PublicKey]) -> None:
        self._domain, self._keys = domain, keys
        self.heads: dict[int, str] = {}
        self._number, self._head = 0, ""

    def follow(self, seal: Seal) -> Iterator[str]:
        """What is wrong with the next seal by itself."""
        if seal.number != self._number + 1:
            yield f"seals {self._number + 1} to {seal.number - 1} were removed"
        elif seal.previous != self._head:
            yield f"seal {seal.number} does not follow the one before it"
        if seal.head != head(self._domain, seal.number, seal.time, seal.previous, seal.root):
            yield f"seal {seal.number} was altered"
        if not any(_signed(key, seal) for key in self._keys):
            yield f"seal {seal.number} is not signed by a key of this node"
        if seal.root != root(seal.leaves):
            yield f"the list of rows of seal {seal.number} was altered"
        self._number, self._head = seal.number, seal.head
        self.heads[seal.number] = seal.head


def _signed(key: ed25519.Ed25519PublicKey, seal: Seal) -> bool:
    try:
        key.verify(base64.b64decode(seal.signature), bytes.fromhex(seal.head))
    except (InvalidSignature, ValueError):
        return False
    return True


def _compare(seal: Seal, rows: Sequence[Any]) -> Iterator[str]:
    """What is wrong with the rows of a seal."""
    sealed, found = dict(seal.leaves), {row.id: row for row in rows}
    moved = {digest: id_ for id_, digest in seal.leaves}
    for id_, digest in seal.leaves:
        row = found.get(id_)
        if row is None:
            yield f"row {id_} of seal {seal.number} was removed"
        elif row.digest == digest and _genuine(row):
            continue
        elif _genuine(row) and row.digest in moved:
            yield f"row {id_} of seal {seal.number} stands where row {moved[row.digest]} stood: reordered"
        else:
            yield f"row {id_} of seal {seal.number} was altered"
    for id_ in found.keys() - sealed.keys():
        yield f"row {id_} was added to seal {seal.number} afterwards"


def _genuine(row: Any) -> bool:
    values = {column: row._mapping[column] for column in audit.COLUMNS}
    moment = resources.instant(resources.when(row.time), sqlite=True)
    return bool(audit.digest(values, moment) == row.digest)
