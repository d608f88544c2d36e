"""How long a call may take, down to SQL: one thread of the process ends what a database still does for a
caller whose time is over. Separate, because the chain knows the deadline and the database the statement."""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from mesh import errors

LOOKS_S = 0.05
"""How often statements are looked at while some run that have a deadline."""
CANCEL_S = 2.0
LONGEST_S = 86_400
log = logging.getLogger(__name__)
_here = threading.local()


def after(seconds: float | None) -> float | None:
    """The moment in so many seconds, by the clock of `time.monotonic`; None for no deadline, of which gRPC
    speaks as of centuries too."""
    return None if seconds is None or seconds > LONGEST_S else time.monotonic() + seconds


def until() -> float | None:
    """Until when the call of this thread may run."""
    return getattr(_here, "until", None)


def passed(until_: float | None) -> bool:
    """Whether that moment is over."""
    return until_ is not None and time.monotonic() >= until_


def left() -> float:
    """Seconds that this thread's call may still wait for a lock; -1 for as long as it takes."""
    moment = until()
    return -1 if moment is None else max(0.0, moment - time.monotonic())


class keeping:  # noqa: N801 - read as a verb, as contextlib's own
    """What this thread does inside is for a call that has to end then. Classes, here and below: every call
    and statement goes through them, and a generator costs it several times as much."""

    __slots__ = ("_before", "_until")

    def __init__(self, until_: float | None) -> None:
        self._until = until_

    def __enter__(self) -> None:
        self._before = until()
        _here.until = self._until

    def __exit__(self, *_: object) -> None:
        _here.until = self._before


def ending(driver: Any) -> contextlib.AbstractContextManager[None]:
    """What runs on this driver's connection inside is ended when the time of this thread's call is over.
    DeadlineExceeded when it is over already."""
    moment = until()
    if moment is None:
        return _NOTHING
    if passed(moment):
        raise errors.DeadlineExceeded
    return _Running(driver, moment)


_NOTHING = contextlib.nullcontext()


class _Running(contextlib.AbstractContextManager[None]):
    """Something running on a connection. The lock keeps what comes next on it from being ended instead."""

    def __init__(self, driver: Any, until_: float) -> None:
        self.until, self.over, self.lock = until_, False, threading.Lock()
        self._end: Callable[[], None] = getattr(driver, "interrupt", None) or functools.partial(
            driver.cancel_safe, timeout=CANCEL_S
        )

    def __enter__(self) -> None:
        _watch.begin(self)

    def __exit__(self, *_: object) -> None:
        _watch.end(self)

    def end(self) -> None:
        with self.lock:
            if self.over:
                return
            try:  # again at each look: the statement may not have reached the server yet
                self._end()
            except Exception as fault:  # the connection broke, and with it the statement
                log.info("a statement could not be ended", extra={"about": {"why": repr(fault)}})


class _Watch:
    """The thread; it starts with the first deadline and sleeps while there is none."""

    def __init__(self) -> None:
        self._running: set[_Running] = set()
        self._any, self._start = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self, running: _Running) -> None:
        self._running.add(running)
        if not self._any.is_set():
            self._any.set()
        if self._thread is None:
            with self._start:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._look, name="deadlines", daemon=True)
                    self._thread.start()

    def end(self, running: _Running) -> None:
        with running.lock:
            running.over = True
        self._running.discard(running)

    def _look(self) -> None:
        while self._any.wait():
            time.sleep(LOOKS_S)
            self._any.clear()
            running = tuple(self._running)
            if running:
                self._any.set()
            for each in running:
                if passed(each.until):
                    each.end()


_watch = _Watch()
