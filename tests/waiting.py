"""Waiting for what comes true by itself, and ports that are free. Shared by tests that start programs."""

import contextlib
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


def free_ports(count: int = 2) -> int:
    """A port that is free, and so are the next ones."""
    while True:
        with contextlib.ExitStack() as held:
            first = held.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                for more in range(1, count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port + more))
            except (OSError, OverflowError):
                continue
            return port
