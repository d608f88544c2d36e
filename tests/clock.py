"""A clock that is wrong, for the programs of one node: a `sitecustomize` that shifts what Python reads.
Broker and Envoy, which are no Python, go by the machine's."""

import contextlib
import datetime
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

from deploy.local import prepare

_SITE = """
import datetime, os, sys, time

SHIFT = float(os.environ["VILLAGEMESH_TEST_SHIFT"])
_real, _time, _time_ns = datetime.datetime, time.time, time.time_ns



def shifted():
    # gRPC adds to it what its core compares with the machine's clock
    grpc = sys._getframe(1).f_globals.get("__name__", "").startswith("grpc")
    return _time() + (0 if grpc else SHIFT)


time.time = shifted
time.time_ns = lambda: _time_ns() + int(SHIFT) * 10**9


class _Kind(type):
    def __instancecheck__(cls, value):
        return isinstance(value, _real)


class _Shifted(_real, metaclass=_Kind):
    @classmethod
    def now(cls, tz=None):
        return _real.fromtimestamp(shifted(), tz)

    @classmethod
    def utcnow(cls):
        return _real.utcfromtimestamp(shifted())


datetime.datetime = _Shifted
"""


class Clock:
    """So far off. `folder`: where the `sitecustomize` goes."""

    def __init__(self, folder: pathlib.Path, shift: datetime.timedelta) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(_SITE)
        path = f"{folder}{os.pathsep}{prepare.python_environment()['PYTHONPATH']}"
        self.shift = shift
        self.environment = {"PYTHONPATH": path, "VILLAGEMESH_TEST_SHIFT": str(shift.total_seconds())}

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """What is started meanwhile goes by it."""
        usual = prepare.python_environment
        prepare.python_environment = lambda: self.environment
        try:
            yield
        finally:
            prepare.python_environment = usual

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What an administrator types on a machine whose clock it is."""
        command = [sys.executable, "-m", "cli.main", *words]
        surroundings = os.environ | self.environment
        return subprocess.run(
            command, env=surroundings, capture_output=True, text=True, timeout=60, check=False
        )
