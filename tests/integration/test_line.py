"""The line that tests of the mesh cut and slow down: it does what it says."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.line import Line


@pytest.fixture
def line() -> Iterator[Line]:
    """A line to a port that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo(connection: socket.socket) -> None:
            with connection:
                try:
                    while data := connection.recv(4096):
                        connection.sendall(data)
                except OSError:
                    pass

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=echo, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        with Line(server.getsockname()[1]) as made:
            yield made
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def dial(line: Line) -> socket.socket:
    return socket.create_connection(("127.0.0.1", line.port), timeout=5)


def ask(connection: socket.socket, data: bytes = b"hello") -> bytes:
    connection.sendall(data)
    found = b""
    while len(found) < len(data):
        part = connection.recv(4096)
        assert part, "the other side hung up"
        found += part
    return found


class TestLine:
    def test_passes_on_both_ways_and_counts(self, line: Line) -> None:
        with dial(line) as connection:
            assert ask(connection) == b"hello"
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(10) == b""
        assert (line.bytes_up, line.bytes_down) == (5, 5)

    def test_cut_resets_and_refuses_until_it_is_restored(self, line: Line) -> None:
        with dial(line) as connection:
            ask(connection)
            line.cut()
            with pytest.raises(ConnectionResetError):
                connection.recv(10)
        with pytest.raises(ConnectionRefusedError):
            dial(line)
        line.restore()
        with dial(line) as connection:
            assert ask(connection) == b"hello"

    def test_hanging_passes_nothing_and_ends_nothing(self, line: Line) -> None:
        with dial(line) as before:
            ask(before)
            line.hang()
            with dial(line) as fresh:
                for connection in (before, fresh):
                    connection.sendall(b"later")
                    connection.settimeout(0.2)
                    with pytest.raises(TimeoutError):
                        connection.recv(10)
                line.restore()
                for connection in (before, fresh):
                    connection.settimeout(5)
                    assert connection.recv(10) == b"later"

    def test_may_be_slow_and_long(self, line: Line) -> None:
        with dial(line) as connection:
            line.delay(0.1)
            begun = time.monotonic()
            ask(connection)
            assert 0.2 <= time.monotonic() - begun < 1
            line.delay(0)
            line.throttle(40_000)
            begun = time.monotonic()
            ask(connection, bytes(20_000))
            assert 0.4 <= time.monotonic() - begun < 3
