"""The load: h2load, which drives gRPC from a fraction of a core, or, where it is missing, a Python client in
a process of its own, which is slower than what it measures. Separate, because every rate rests on it."""

import dataclasses
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time

import grpc

WARM_UP_S, RUN_S = 0.5, 1.5
H2LOAD = shutil.which("h2load")
NOTE = "h2load" if H2LOAD else "a Python client, because h2load (Debian: nghttp2-client) is missing"


class Failed(Exception):  # noqa: N818 - an answer, not a fault
    """What was measured did not answer as it should."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One call, made again and again."""

    address: str
    path: str
    request: bytes
    token: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"} if self.token else {}

    def once(self) -> bytes:
        """The answer to one call."""
        with grpc.insecure_channel(self.address) as channel:
            grpc.channel_ready_future(channel).result(timeout=20)
            return self._by(channel)(self.request, metadata=list(self.headers.items()), timeout=20)

    @staticmethod
    def plain(channel: grpc.Channel, path: str) -> grpc.UnaryUnaryMultiCallable:
        return channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)

    def _by(self, channel: grpc.Channel) -> grpc.UnaryUnaryMultiCallable:
        return self.plain(channel, self.path)


def rate(call: Call, callers: int, seconds: float = RUN_S) -> float:
    """Calls a second by so many callers on one connection. Failed when calls were refused."""
    answer = call.once()
    found = _by_h2load(call, callers, seconds, len(answer)) if H2LOAD else _by_python(call, callers, seconds)
    call.once()
    return found


def _by_h2load(call: Call, callers: int, seconds: float, length: int) -> float:
    with tempfile.NamedTemporaryFile() as body:
        body.write(struct.pack(">BI", 0, len(call.request)) + call.request)
        body.flush()
        headers = {"content-type": "application/grpc", "te": "trailers", **call.headers}
        done = subprocess.run(
            [
                *(
                    str(H2LOAD),
                    "-t1",
                    "-c1",
                    f"-m{callers}",
                    f"-D{_ms(seconds)}",
                    f"--warm-up-time={_ms(WARM_UP_S)}",
                ),
                *(part for k, v in headers.items() for part in ("-H", f"{k}: {v}")),
                *("-d", body.name, f"http://{call.address}{call.path}"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    per_second = re.search(r"finished in .*?, ([\d.]+) req/s", done.stdout)
    counted = re.search(r"requests: .*? (\d+) done, (\d+) succeeded, (\d+) failed", done.stdout)
    data = re.search(r"\((\d+)\) data", done.stdout)
    if not (per_second and counted and data) or int(counted[2]) == 0:
        raise Failed(done.stdout + done.stderr)
    # h2load does not read grpc-status: a refusal shows in that no message came back
    if int(data[1]) < 0.98 * int(counted[2]) * (length + 5):
        raise Failed(f"{call.path}: answers were shorter than {length + 5} bytes\n{done.stdout}")
    return float(per_second[1])


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _by_python(call: Call, callers: int, seconds: float) -> float:
    arguments = [call.address, call.path, call.request.hex(), call.token, str(callers), str(seconds)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.load", *arguments], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def _client(address: str, path: str, request: str, token: str, callers: str, seconds: str) -> None:
    """Prints calls a second; runs in its own process."""
    call = Call(address, path, bytes.fromhex(request), token)
    headers, counts = list(call.headers.items()), [0] * int(callers)
    start = time.monotonic() + WARM_UP_S
    end = start + float(seconds)
    with grpc.insecure_channel(address) as channel:
        ask = Call.plain(channel, path)

        def run(place: int) -> None:
            while (now := time.monotonic()) < end:
                ask(call.request, metadata=headers, timeout=20)
                counts[place] += now >= start

        threads = [threading.Thread(target=run, args=(n,)) for n in range(len(counts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(sum(counts) / float(seconds))


if __name__ == "__main__":
    _client(*sys.argv[1:])
