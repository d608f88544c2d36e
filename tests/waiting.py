"""Waiting for what comes true by itself, and ports that are free. Shared by tests that start programs."""

import contextlib
import fcntl
import pathlib
import socket
import time
from collections.abc import Callable
from typing import Any


def until(holds: Callable[[], Any], seconds: float = 20) -> Any:
    """Polls until `holds()` is true and returns what it gave; fails at the deadline."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := holds():
            return result
        time.sleep(0.02)
    raise AssertionError(f"did not come true within {seconds} s")


# Below what the kernel gives to outgoing connections, so that none is taken before its program starts.
_PORTS = range(12_000, 30_000)
_CLAIMS = pathlib.Path("/tmp/villagemesh-test-ports")


def free_ports(count: int = 2) -> int:
    """A port that is free, and so are the next ones; two runs at a time are given different ones."""
    with _CLAIMS.open("a+") as claims, contextlib.ExitStack() as held:
        fcntl.flock(claims, fcntl.LOCK_EX)
        claims.seek(0)
        first = port = int(claims.read() or _PORTS.start)
        while port < first + count:
            if first + count > _PORTS.stop:
                first = port = _PORTS.start
            try:
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
                port += 1
            except OSError:
                first = port = port + 1
        claims.truncate(0)
        claims.write(str(port))
        return first


def free_port() -> int:
    """A port that is free."""
    return free_ports(1)
