"""A line between two nodes that a test can cut, hang, slow down and put back: a TCP proxy on this machine,
in a thread of its own. A county joins by its address, so that everything between the two goes through it."""

import asyncio
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

CHUNK = 16 * 1024
BUFFER = 64 * 1024
"""What the kernel may hold for each connection: little, so that a slow line is slow for all that is sent."""
_RESET = struct.pack("ii", 1, 0)
_Travelling = asyncio.Queue[tuple[float, bytes]]
"""What is on its way in one direction of a connection, and when each part may arrive; nothing is the end."""


class _Way:
    """One direction: how many bytes have passed, and when the next may."""

    def __init__(self) -> None:
        self.bytes = 0
        self.free_at = 0.0
        self.passing = asyncio.Event()
        self.passing.set()


class Line:
    """Passes on to a port of this machine what arrives at its own. A context manager."""

    def __init__(self, to: int) -> None:
        self._to, self._rate, self._delay = to, 0.0, 0.0
        self._up, self._down = _Way(), _Way()
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="line", daemon=True)
        self._thread.start()
        self.port = 0
        self._do(self._listen())

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def bytes_up(self) -> int:
        """What has gone to the other port."""
        return self._up.bytes

    @property
    def bytes_down(self) -> int:
        """What has come back."""
        return self._down.bytes

    def cut(self) -> None:
        """Resets every connection and refuses new ones."""
        self._do(self._cut())

    def hang(self, *, up: bool = True, down: bool = True) -> None:
        """Keeps connections and takes new ones, and passes nothing: no byte, no end, in either direction or
        in one."""
        for way, held in ((self._up, up), (self._down, down)):
            if held:
                self._soon(way.passing.clear)

    def restore(self) -> None:
        """A good line again. What waited in it while it hung arrives; its speed is as it was set."""
        for way in (self._up, self._down):
            self._soon(way.passing.set)
        self._do(self._listen())

    def throttle(self, bytes_per_second: float) -> None:
        """What may pass in each direction; 0 is all there is."""
        self._rate = bytes_per_second

    def delay(self, seconds: float) -> None:
        """How long each byte travels, each way."""
        self._delay = seconds

    def flap(self, seed: int, seconds: float) -> None:
        """Fails and comes back, again and again, the same way for the same seed; returns with a good line."""
        chance, end = random.Random(seed), time.monotonic() + seconds
        while time.monotonic() < end:
            chance.choice((self.cut, self.cut, self.hang))()
            time.sleep(chance.uniform(0.05, 0.6))
            self.restore()
            time.sleep(chance.uniform(0.05, 0.8))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _soon(self, act: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(act)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=CHUNK)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._connect(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        ends = [writer]
        try:
            await self._up.passing.wait()
            back, there = await asyncio.open_connection("127.0.0.1", self._to, limit=CHUNK)
            ends.append(there)
            self._writers.add(there)
            for each in ends:
                for name in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                    each.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, name, BUFFER)
            async with asyncio.TaskGroup() as group:
                for source, sink, way in ((reader, there, self._up), (back, writer, self._down)):
                    travelling: _Travelling = asyncio.Queue(64)
                    group.create_task(self._depart(source, travelling))
                    group.create_task(self._arrive(travelling, sink, way))
        except* OSError:
            pass  # one end has hung up: so does the other
        finally:
            for each in ends:
                self._writers.discard(each)
                each.close()

    async def _depart(self, source: asyncio.StreamReader, travelling: "_Travelling") -> None:
        data = b"-"
        while data:
            data = await source.read(CHUNK)
            await travelling.put((time.monotonic() + self._delay, data))

    async def _arrive(self, travelling: "_Travelling", sink: asyncio.StreamWriter, way: _Way) -> None:
        while True:
            due, data = await travelling.get()
            if self._rate:
                way.free_at = max(time.monotonic(), way.free_at) + len(data) / self._rate
                due = max(due, way.free_at)
            await asyncio.sleep(max(due - time.monotonic(), 0))
            await way.passing.wait()
            if not data:
                sink.write_eof()
                return
            sink.write(data)
            way.bytes += len(data)
            await sink.drain()
