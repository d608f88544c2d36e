"""Waiting for what comes true by itself, and ports that are free. Shared by tests that start programs."""

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


def free_ports() -> int:
    """A port that is free, and so is the next."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
