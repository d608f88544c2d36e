"""Engines, reads, and the one commit: state, history, outbox and audit are written together or not at
all, and only while every row relied on is as it was read and the pair is owned. Nothing else writes
resources. Statements are built with SQLAlchemy Core once per shape and then run on the driver."""

import contextlib
import dataclasses
import functools
import itertools
import operator
import random
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import orjson
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.dialects.postgresql import psycopg as psycopg_dialect

from mesh import deadlines, errors, statements, turns
from mesh.statements import Commit, Write

T = TypeVar("T")

BUSY_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 15_000
ONE_STATEMENT = 60
"""Commits of more rows than this are a transaction on PostgreSQL too: a statement of its own for every number
of rows would be compiled, and kept, again and again."""
LANES = 16
"""How many rows PostgreSQL keeps of who owns a pair: one that several lock at once costs each of them a fifth
of a commit and more."""
_lanes = itertools.cycle(random.sample(range(LANES), LANES))  # other processes begin elsewhere


class Moved(Exception):  # noqa: N818 - a signal to run the handler again
    """A row relied on is no longer at the version that was read; nothing was written."""


class Disowned(Exception):  # noqa: N818
    """The pair is not owned at that epoch, or is frozen; nothing was written."""


class Taken(Exception):  # noqa: N818
    """A row of that key exists already; nothing was written. Holds the driver's text, for the log."""


class Gone(Taken):
    """A row referred to is not there any more; nothing was written."""


class Broken(Taken):
    """A row would not keep a check of its table; nothing was written. Holds the check's name."""


def _taken(fault: Exception) -> Taken:
    text, state = str(fault), getattr(fault, "sqlstate", "")
    if state == "23514":
        return Broken(fault.diag.constraint_name)  # type: ignore[attr-defined]
    if text.startswith("CHECK constraint failed: "):
        return Broken(text.partition(": ")[2])
    return Gone(text) if state == "23503" or "FOREIGN KEY" in text else Taken(text)


@dataclasses.dataclass(frozen=True)
class Sql:
    """A statement as the driver takes it: with names on SQLite, with numbers on PostgreSQL, where it is
    bytes, so that its hash is worked out once, and `order` gives the parameters."""

    text: Any
    order: tuple[str, ...]


class Database:
    """One domain's database on SQLite or PostgreSQL. Each thread keeps a connection of its own."""

    def __init__(self, url: str, *, threads: int) -> None:
        self.sqlite = url.startswith("sqlite")
        # each thread keeps one, and relay, timers and health have threads besides those of calls
        options: dict[str, Any] = {"pool_size": threads, "max_overflow": 64, "pool_reset_on_return": None}
        if self.sqlite:
            self.engine = sa.create_engine(
                url, poolclass=sa.QueuePool, connect_args={"check_same_thread": False}, **options
            )
            event.listen(self.engine, "connect", _sqlite_settings)
            # named parameters, so that both drivers take the same mapping
            self._dialect: sa.Dialect = sqlite_dialect.dialect(paramstyle="named")
            # by place where there are many, because SQLite looks each name up for each row
            self._by_place: sa.Dialect = sqlite_dialect.dialect(paramstyle="qmark")
        else:
            timeouts = f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC"
            self.engine = sa.create_engine(
                url,
                isolation_level="AUTOCOMMIT",
                json_deserializer=orjson.loads,
                connect_args={"options": timeouts, "connect_timeout": 5},
                **options,
            )
            # numbered, because psycopg takes the text of a long statement with names apart at every call
            self._dialect = psycopg_dialect.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
            self._by_place = self._dialect
        self._prepared: dict[Any, Sql] = {}
        self._statements: dict[Any, tuple[bytes, Callable[[Sequence[Any]], Sequence[Any]]]] = {}
        self._own = threading.local()
        self._connections: weakref.WeakSet[sa.Connection] = weakref.WeakSet()
        self._turns = turns.Turns(self)

    def close(self) -> None:
        """Closes every connection; the next use opens new ones."""
        for connection in list(self._connections):
            connection.close()
        self._connections.clear()
        self._own = threading.local()
        self.engine.dispose()

    def prepare(self, key: object, build: Callable[[], Any], *, many: bool = False) -> Sql:
        """The driver's SQL for a statement, compiled once per key; `many`: for `run_many`."""
        sql = self._prepared.get(key)
        if sql is None:
            made = build().compile(dialect=self._by_place if many else self._dialect)
            text = str(made) if self.sqlite else str(made).encode()
            sql = self._prepared[key] = Sql(text, tuple(made.positiontup or ()))
        return sql

    def run(self, cursor: Any, sql: Sql, parameters: dict[str, Any]) -> Any:
        """Runs a prepared statement on a cursor; the cursor."""
        if self.sqlite:
            return cursor.execute(sql.text, parameters)
        return cursor.execute(sql.text, [parameters[name] for name in sql.order], prepare=True)

    def cursor(self, *, ends: bool = True) -> contextlib.AbstractContextManager[Any]:
        """A driver's cursor in autocommit; faults of the driver become refusals. What runs on it `ends` with
        the time of the call."""
        return _Cursor(self, ends)

    def connection(self) -> sa.Connection:
        """This thread's own."""
        return getattr(self._own, "connection", None) or self._connect()

    def _connect(self) -> sa.Connection:
        try:
            connection = self._own.connection = self.engine.connect()
        except (sa.exc.SQLAlchemyError, self.fault) as fault:
            raise errors.Unavailable(what="the database") from fault
        self._connections.add(connection)
        return connection

    def fetch(self, sql: Sql, parameters: dict[str, Any]) -> Sequence[Any]:
        """Rows of a prepared read. Tried once more when the connection had been lost meanwhile."""
        known = getattr(self._own, "connection", None)
        try:
            with self.cursor() as cursor:
                return self.run(cursor, sql, parameters).fetchall()
        except (errors.Unavailable, errors.DeadlineExceeded):
            if known is None or getattr(self._own, "connection", None) is known:
                raise
        with self.cursor() as cursor:
            return self.run(cursor, sql, parameters).fetchall()

    def select(self, statement: Any) -> Sequence[Any]:
        """Rows of a statement whose shape varies."""
        connection = self.connection()
        try:
            with deadlines.ending(connection.connection.driver_connection):
                return connection.execute(statement).fetchall()  # type: ignore[no-any-return]
        except (sa.exc.OperationalError, sa.exc.InterfaceError) as fault:
            if _ended(fault.orig):
                raise errors.DeadlineExceeded from fault
            self._forget(connection)
            raise errors.Unavailable(what="the database") from fault
        finally:
            if not connection.closed:
                connection.rollback()

    def change(self, *statements_: Any) -> int:
        """Runs changes of the plumbing's own that are too rare to be prepared; how many rows the last met."""

        def work(cursor: Any) -> int:
            for statement in statements_:
                made = statement.compile(dialect=self._dialect, compile_kwargs={"render_postcompile": True})
                text = str(made) if self.sqlite else str(made).encode()
                self.run(cursor, Sql(text, tuple(made.positiontup or ())), dict(made.params))
            return int(cursor.rowcount)

        return self.transact(work)

    @property
    def lane(self) -> int:
        """This thread's own."""
        if self.sqlite:
            return 0
        found = getattr(self._own, "lane", None)
        if found is None:
            found = self._own.lane = next(_lanes)
        return int(found)

    def commit(self, commit: Commit) -> None:
        """Writes everything or nothing. Raises Moved, Disowned, Taken; Unavailable when certainly nothing
        was written, DeadlineExceeded when that is not known."""
        if self.sqlite or len(commit.writes) > ONE_STATEMENT:
            self.transact(lambda cursor: self._write_one_by_one(cursor, commit))
            return
        text, parameters = self._statement(commit)
        with self.cursor() as cursor:
            owned, *held = cursor.execute(text, parameters, prepare=True).fetchone()
        if not owned:
            raise Disowned
        if sum(held) != len(commit.held):
            raise Moved

    def transact(self, work: Callable[[Any], T]) -> T:
        """Runs `work` on a cursor in a write transaction; on SQLite, which has one writer, in its turn."""
        if self.sqlite:
            return self._turns.take(work)
        with self.cursor(ends=False) as cursor:
            try:
                with deadlines.ending(cursor.connection):
                    cursor.execute("BEGIN")
                    result = work(cursor)
                    cursor.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(self.fault):
                    cursor.execute("ROLLBACK")
                raise
            return result

    def _write_one_by_one(self, cursor: Any, commit: Commit) -> None:
        if not self.run(
            cursor, self.prepare("owned", statements.owned), statements.owner_values(commit, self.lane)
        ).fetchall():
            raise Disowned
        for table, name, version in sorted(commit.held, key=lambda h: (h[0].name, h[1])):
            sql = self.prepare(("held", table.name), functools.partial(statements.held, table))
            if not self.run(cursor, sql, {"name": name, "version": version}).fetchall():
                raise Moved
        for alike in _alike(commit.writes):
            names = tuple(alike[0].values)
            build = functools.partial(statements.KINDS[alike[0].kind], alike[0].table, names, "")
            sql = self.prepare((alike[0].table.name, alike[0].kind, names), build, many=True)
            self.run_many(cursor, sql, [w.values for w in alike])

    def run_many(self, cursor: Any, sql: Sql, rows: list[dict[str, Any]]) -> int:
        """Runs a prepared change for each of several rows; how many it met. Taken here already, so that on
        SQLite what other callers have in the same transaction stays."""
        # on PostgreSQL in one go and back, by the driver's pipeline
        first, *others = sql.order
        placed = operator.itemgetter(first, *others) if others else lambda row: (row[first],)
        try:
            cursor.executemany(sql.text, list(map(placed, rows)))
        except self.engine.dialect.dbapi.IntegrityError as fault:  # type: ignore[union-attr]
            raise _taken(fault) from fault
        return int(cursor.rowcount)

    def _statement(self, commit: Commit) -> tuple[bytes, Sequence[Any]]:
        """The one statement of PostgreSQL and its parameters in their order."""
        held = sorted(commit.held, key=lambda h: (h[0].name, h[1]))
        key = (
            tuple(table.name for table, _, _ in held),
            tuple((w.table.name, w.kind, tuple(w.values)) for w in commit.writes),
        )
        known = self._statements.get(key)
        if known is None:
            sql = self.prepare(key, lambda: statements.one_statement(held, commit.writes))
            names = [*statements.owner_values(commit, self.lane)]
            names += [f"{part}{i}" for i in range(len(held)) for part in ("name", "version")]
            names += [f"x{i}_{k}" for i, w in enumerate(commit.writes) for k in w.values]
            known = self._statements[key] = sql.text, operator.itemgetter(*map(names.index, sql.order))
        text, in_order = known
        values = [*statements.owner_values(commit, self.lane).values()]
        for _, name, version in held:
            values += (name, version)
        for write in commit.writes:
            values += write.values.values()
        return text, in_order(values)

    @functools.cached_property
    def raw_cursor(self) -> Any:
        return self.engine.dialect.dbapi.RawCursor  # type: ignore[union-attr]

    @functools.cached_property
    def bad_value(self) -> type[BaseException]:
        """What the driver raises for a value that no column takes."""
        return self.engine.dialect.dbapi.DataError  # type: ignore[union-attr]

    @functools.cached_property
    def fault(self) -> type[BaseException]:
        return self.engine.dialect.dbapi.Error  # type: ignore[union-attr]

    def _forget(self, connection: sa.Connection) -> None:
        """Drops a connection that may be broken; the thread opens another."""
        connection.invalidate()
        connection.close()
        self._connections.discard(connection)
        self._own.connection = None

    def refuse(self, connection: Any, fault: BaseException) -> None:
        """Turns a driver's fault into Taken, Moved or a refusal."""
        dbapi = self.engine.dialect.dbapi
        if isinstance(fault, dbapi.IntegrityError):  # type: ignore[union-attr]
            raise _taken(fault) from fault  # type: ignore[arg-type]
        state = getattr(fault, "sqlstate", None)
        if state in {"40001", "40P01"}:  # serialization, deadlock: rolled back whole
            raise Moved from fault
        if _ended(fault):
            raise errors.DeadlineExceeded from fault
        if not isinstance(fault, dbapi.OperationalError):  # type: ignore[union-attr]
            raise fault
        self._forget(connection)
        if state == "53100" or getattr(fault, "sqlite_errorname", "") == "SQLITE_FULL":
            raise errors.DiskFull(what="the database", delay=10.0) from fault
        if self.sqlite or state is not None:  # the server answered that it did not
            raise errors.Unavailable(what="the database", delay=2.0) from fault
        raise errors.DeadlineExceeded from fault  # the line broke: it may have been done


def _ended(fault: BaseException | None) -> bool:
    """Whether a statement was ended, by us or by its own limit, on a connection that is well."""
    said = getattr(fault, "sqlstate", None), getattr(fault, "sqlite_errorname", None)
    return "57014" in said or "SQLITE_INTERRUPT" in said


def _alike(writes: Sequence[Write]) -> list[list[Write]]:
    """Writes of the same kind to the same columns together, each kind in its order."""
    found: dict[Any, list[Write]] = {}
    for write in writes:
        found.setdefault((write.table.name, write.kind, tuple(write.values)), []).append(write)
    return list(found.values())


class _Cursor(contextlib.AbstractContextManager[Any]):
    """See `Database.cursor`."""

    __slots__ = ("_connection", "_database", "_ending", "_ends")

    def __init__(self, database: Database, ends: bool) -> None:
        self._database, self._ends = database, ends

    def __enter__(self) -> Any:
        database = self._database
        self._connection = database.connection()
        driver: Any = self._connection.connection.driver_connection
        cursor = driver.cursor() if database.sqlite else database.raw_cursor(driver)
        self._ending = deadlines.ending(driver) if self._ends else contextlib.nullcontext()
        self._ending.__enter__()  # last: what fails in here is followed by no exit
        return cursor

    def __exit__(self, kind: Any, fault: BaseException | None, trace: Any) -> None:
        self._ending.__exit__(kind, fault, trace)
        if isinstance(fault, self._database.fault):
            self._database.refuse(self._connection, fault)


def _sqlite_settings(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    kept = "journal_mode=WAL synchronous=FULL foreign_keys=ON secure_delete=ON temp_store=MEMORY"
    for pragma in (*kept.split(), f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_size_limit=67108864"):
        connection.execute(f"PRAGMA {pragma}")
