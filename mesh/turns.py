"""SQLite's one writer: whoever has the turn takes every waiting job into one transaction, and so into one
fsync, each of several in a savepoint of its own. Separate from the database, whose other kind has many."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from mesh import deadlines, errors

T = TypeVar("T")
GROUP = 64
"""How many jobs are taken into one transaction."""


class Turns:
    """Who writes next. `database`: the one whose cursors are used (`mesh.database.Database`)."""

    def __init__(self, database: Any) -> None:
        self._database, self._turn = database, threading.Lock()
        self._waiting: list[_Job] = []

    def take(self, work: Callable[[Any], T]) -> T:
        """Runs `work` on a cursor in a write transaction."""
        job = _Job(work)
        self._waiting.append(job)
        if not self._turn.acquire(timeout=deadlines.left()):
            raise errors.DeadlineExceeded  # whoever has the turn leaves the job out, or is at it
        try:
            while not job.done:
                self._do()
        finally:
            self._turn.release()
        if job.fault is not None:
            raise job.fault
        return job.result  # type: ignore[no-any-return]

    def _do(self) -> None:
        jobs, fault_ = self._waiting[:GROUP], self._database.fault
        del self._waiting[: len(jobs)]
        try:
            with self._database.cursor(ends=False) as cursor:  # it is of other callers too
                cursor.execute("BEGIN IMMEDIATE")
                try:
                    for job in jobs:
                        job.run(cursor, fault_, alone=len(jobs) == 1)
                    cursor.execute("ROLLBACK" if len(jobs) == 1 and jobs[0].fault else "COMMIT")
                except BaseException:
                    with contextlib.suppress(fault_):
                        cursor.execute("ROLLBACK")
                    raise
        except BaseException as fault:  # the disk is full, say: nothing of this turn was written
            for job in jobs:
                job.fault = job.fault or fault
        finally:
            for job in jobs:
                job.done = True


class _Job:
    """One write that waits."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work, self.done, self._until = work, False, deadlines.until()
        self.result: Any = None
        self.fault: BaseException | None = None

    def run(self, cursor: Any, fatal: type[BaseException], *, alone: bool) -> None:
        """Does it; `alone` in its transaction it needs no savepoint, which copies each page that changes."""
        if deadlines.passed(self._until):
            self.fault = errors.DeadlineExceeded()
            return
        save, undo, release = ("", "", "") if alone else ("SAVEPOINT job", "ROLLBACK TO job", "RELEASE job")
        cursor.execute(save)  # an empty statement does nothing
        try:
            self.result = self.work(cursor)
        except fatal:
            raise
        except Exception as fault:
            self.fault = fault
            cursor.execute(undo)
        cursor.execute(release)
