"""`villagemesh serve --processes N`: several processes on one address and one PostgreSQL. The first does what
is done beside calls: relay, reactions, timers, seals."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading

from mesh import config

PAUSE_S = 1.0
log = logging.getLogger(__name__)


class Processes:
    """The processes; one that ends is started again."""

    def __init__(self, domains: tuple[str, ...], count: int) -> None:
        self._command = [sys.executable, "-m", "cli.main", "serve", *domains]
        self._count, self._asked = count, threading.Event()
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def run(self) -> None:
        """Until SIGTERM or SIGINT; then each finishes what it has in hand."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._asked.set())
        while not self._asked.is_set():
            for place in range(self._count):
                if place not in self._running or self._running[place].poll() is not None:
                    self._running[place] = self._start(place)
            self._asked.wait(PAUSE_S)
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in self._running.values():
            process.wait()

    def _start(self, place: int) -> subprocess.Popen[bytes]:
        if place in self._running:
            about = {"process": place, "code": self._running[place].returncode}
            log.warning("a process ended and is started again", extra={"about": about})
        variables = {"VILLAGEMESH_SHARED": "1", "VILLAGEMESH_BACKGROUND": "1" if place == 0 else "0"}
        return subprocess.Popen(self._command, env={**os.environ, **variables})


def check(settings: config.Settings) -> None:
    """Stops with the reason when one process is all that these settings allow."""
    if settings.database_url.startswith("sqlite"):
        raise SystemExit("villagemesh: SQLite has one writer: serve it by one process, or use PostgreSQL")
    if settings.listen.startswith("unix:"):
        raise SystemExit("villagemesh: several processes share HOST:PORT, not a unix socket")
