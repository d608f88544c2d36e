"""A station that speaks MQTT 3.1.1, as small as can be: CONNECT, PUBLISH with QoS 1 and its acknowledgements,
SUBSCRIBE."""

import socket
import struct
from collections.abc import Iterator, Sequence


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text.encode())) + text.encode()


def _packet(kind: int, content: bytes) -> bytes:
    size, left = b"", len(content)
    while True:
        size += bytes([left % 128 | (128 if left > 127 else 0)])
        left //= 128
        if not left:
            return bytes([kind]) + size + content


class Refused(Exception):  # noqa: N818
    """The broker does not let it in."""


class Station:
    """A session."""

    def __init__(self, port: int, number: str, password: str, timeout: float = 20) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self._held, self._next = b"", 0
        self.heard: list[bytes] = []
        """Payloads on topics it subscribed to."""
        flags = b"\xc2\x00\x3c"
        content = _text("MQTT") + b"\x04" + flags + _text(number) + _text(number) + _text(password)
        self._socket.sendall(_packet(0x10, content))
        kind, answer = self._read()
        if kind != 0x20 or answer[1]:
            self.close()
            raise Refused(answer)

    def __enter__(self) -> "Station":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def subscribe(self, topic: str) -> None:
        self._socket.sendall(_packet(0x82, b"\x00\x01" + _text(topic) + b"\x00"))
        self._until(0x90)

    def publish(self, topic: str, payloads: Sequence[bytes], window: int = 200) -> int:
        """Publishes and waits until all are acknowledged, at most `window` under way; how many were."""
        done = sent = 0
        for payload in payloads:
            self._next = self._next % 65_535 + 1
            self._socket.sendall(_packet(0x32, _text(topic) + struct.pack(">H", self._next) + payload))
            sent += 1
            while sent - done >= window:
                self._until(0x40)
                done += 1
        while done < sent:
            self._until(0x40)
            done += 1
        return done

    def hear(self, count: int) -> list[bytes]:
        """That many payloads, waited for."""
        while len(self.heard) < count:
            self._note(*self._read())
        return self.heard[:count]

    def _until(self, wanted: int) -> bytes:
        while True:
            kind, content = self._read()
            if kind == wanted:
                return content
            self._note(kind, content)

    def _note(self, kind: int, content: bytes) -> None:
        if kind & 0xF0 == 0x30:
            size = struct.unpack(">H", content[:2])[0]
            self.heard.append(content[2 + size + (2 if kind & 0x06 else 0) :])

    def _read(self) -> tuple[int, bytes]:
        for kind, content, rest in self._whole():
            self._held = rest
            return kind, content
        some = self._socket.recv(65_536)
        if not some:
            raise ConnectionError("the broker has ended the session")
        self._held += some
        return self._read()

    def _whole(self) -> Iterator[tuple[int, bytes, bytes]]:
        size, at, shift = 0, 1, 0
        while at < len(self._held):
            byte = self._held[at]
            size |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                if len(self._held) >= at + size:
                    yield self._held[0], self._held[at : at + size], self._held[at + size :]
                return
