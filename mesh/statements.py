"""What one commit writes, and its statements, built with SQLAlchemy Core. Separate from the database that
runs them, because what locks what, and in which order, is read here alone."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from mesh import tables


class Write(NamedTuple):
    """A row added, one changed by its name, or one removed by all its values. `values` are ready for the
    driver."""

    table: sa.Table
    values: dict[str, Any]
    kind: Literal["insert", "update", "delete"] = "insert"


@dataclasses.dataclass
class Commit:
    """What one call writes, for one (region, domain)."""

    region: str
    domain: str
    epoch: int
    held: list[tuple[sa.Table, str, int]] = dataclasses.field(default_factory=list)
    """Rows changed or relied on: table, name and the version that was read."""
    writes: list[Write] = dataclasses.field(default_factory=list)


def _owner(metadata: sa.MetaData) -> sa.Table:
    return tables.plumbing(metadata).ownership


def owned() -> Any:
    """Whether the pair is owned at an epoch, and not frozen."""
    own = _owner(sa.MetaData())
    return sa.select(own.c.epoch).where(*_owned(own)).with_for_update(read=True)


def _owned(own: sa.Table) -> list[Any]:
    values = {"region": sa.Text, "domain": sa.Text, "lane": sa.Integer, "epoch": sa.Integer}
    return [own.c[k] == sa.bindparam(f"own_{k}", type_=t) for k, t in values.items()] + [
        own.c.frozen == sa.false()
    ]


def owner_values(commit: Commit, lane: int) -> dict[str, Any]:
    """The parameters that say which pair and epoch, and in which lane it is locked."""
    return {
        "own_region": commit.region, "own_domain": commit.domain, "own_lane": lane, "own_epoch": commit.epoch
    }  # fmt: skip


def _at(table: sa.Table, suffix: object) -> Any:
    return sa.and_(
        table.c.name == sa.bindparam(f"name{suffix}", type_=sa.Text),
        table.c.version == sa.bindparam(f"version{suffix}", type_=sa.Integer),
    )


def held(table: sa.Table) -> Any:
    """A row at the version that was read."""
    return sa.select(table.c.name).where(_at(table, "")).with_for_update()


def _given(table: sa.Table, names: tuple[str, ...], mark: str) -> dict[str, Any]:
    return {k: sa.bindparam(f"{mark}{k}", type_=table.c[k].type) for k in names}


def insert(table: sa.Table, names: tuple[str, ...], mark: str) -> Any:
    """A row; parameters are `mark` and the column."""
    return sa.insert(table).values(_given(table, names, mark))


def update(table: sa.Table, names: tuple[str, ...], mark: str) -> Any:
    """The row of a name, all columns given."""
    values = _given(table, names, mark)
    return sa.update(table).where(table.c.name == values.pop("name")).values(values)


def delete(table: sa.Table, names: tuple[str, ...], mark: str) -> Any:
    """The row of these values."""
    return sa.delete(table).where(*(table.c[k] == v for k, v in _given(table, names, mark).items()))


def behind(columns: Sequence[sa.Column[Any]], key: tuple[str, ...], most: int) -> Any:
    """At most so many rows in the order of their key, behind the one whose key the parameters give."""
    own = [columns[0].table.c[k] for k in key]
    given = [sa.bindparam(k, type_=column.type) for k, column in zip(key, own, strict=True)]
    found = sa.select(*columns).where(sa.tuple_(*own) > sa.tuple_(*given)).order_by(*own)
    # else SQLite adds parameters of its own
    return found.limit(sa.literal_column(str(most))).offset(sa.literal_column("0"))


def replace(table: sa.Table, names: tuple[str, ...], at: tuple[str, ...]) -> Any:
    """The rows that have the values `was_…` in the columns `at`."""
    where = [table.c[k] == v for k, v in _given(table, at, "was_").items()]
    return sa.update(table).where(*where).values(_given(table, names, ""))


KINDS = {"insert": insert, "update": update, "delete": delete}


def one_statement(held: Sequence[tuple[sa.Table, str, int]], writes: Sequence[Write]) -> Any:
    """`WITH owner …, held …, gate …, w0 AS (UPDATE … FROM gate …), … SELECT how many were held`."""
    own = _owner(sa.MetaData())
    owner = sa.select(own.c.epoch).where(*_owned(own)).with_for_update(read=True).cte("owner")
    locks = [owner]
    expected = [1]
    for name in sorted({table.name for table, _, _ in held}):
        rows = [(i, table) for i, (table, _, _) in enumerate(held) if table.name == name]
        table = rows[0][1]
        locks.append(
            sa.select(table.c.name)
            .where(sa.or_(*(_at(table, i) for i, _ in rows)))
            .order_by(table.c.name)
            .with_for_update()
            .cte(f"held_{name}")
        )
        expected.append(len(rows))
    counts = [sa.select(sa.func.count()).select_from(lock).scalar_subquery() for lock in locks]
    all_held = [count == sa.literal_column(str(n)) for count, n in zip(counts, expected, strict=True)]
    gate = sa.select(sa.literal_column("1").label("open")).where(*all_held).cte("gate")
    steps = []
    inserts: dict[str, list[tuple[int, Write]]] = {}
    for i, write in enumerate(writes):
        if write.kind == "insert":
            inserts.setdefault(write.table.name, []).append((i, write))
        else:
            step = KINDS[write.kind](write.table, tuple(write.values), f"x{i}_")
            steps.append(step.where(gate.c.open == sa.literal_column("1")).cte(f"w{i}"))
    for name, added in inserts.items():
        steps.append(_insert_in_order(added, gate).cte(f"in_{name}"))
    return sa.select(*counts).add_cte(*steps)


def _typed(name: str, column: sa.Column[Any]) -> Any:
    """A parameter that says of which type it is when it is NULL: the driver's dialect says so of others."""
    given: Any = sa.bindparam(name, type_=column.type)
    return (
        sa.cast(given, column.type)
        if column.nullable and isinstance(column.type, sa.Double | sa.Boolean)
        else given
    )


def _insert_in_order(rows: list[tuple[int, Write]], gate: Any) -> Any:
    """One insert of all rows of a table, in their order, in which their ids are drawn: PostgreSQL runs
    several writes of one statement in any order."""
    table, names = rows[0][1].table, list(rows[0][1].values)

    def given(i: int, place: int) -> Any:
        values = [_typed(f"x{i}_{k}", table.c[k]).label(k) for k in names]
        return sa.select(sa.literal_column(str(place)).label("nth row"), *values)

    listed = sa.union_all(*(given(i, place) for place, (i, _) in enumerate(rows))).subquery("listed")
    ordered = sa.select(*(listed.c[k] for k in names)).select_from(listed, gate).order_by(listed.c["nth row"])
    return sa.insert(table).from_select(names, ordered)


def bring(cursor: Any, to: str, like: str, rows: list[dict[str, Any]]) -> None:
    """Puts rows into a table of PostgreSQL's that this transaction alone sees."""
    names = ", ".join(f'"{name}"' for name in rows[0])
    cursor.execute(f"CREATE TEMP TABLE {to} ON COMMIT DROP AS SELECT {names} FROM {like} WITH NO DATA")
    with cursor.copy(f"COPY {to} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(list(row.values()))
