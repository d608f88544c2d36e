"""What a whole county node costs, started as people start it: how long until it answers, what Envoy adds to
a call, and how much memory it holds."""

import contextlib
import datetime
import http.client
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import grpc
import psutil

from bench import figures, load, places
from cli import sample
from deploy.local import issuer
from tests.county import REGION
from tests.waiting import free_ports
from village.habitat.v1 import report_pb2 as pb
from village.type.v1 import attachment_pb2

STARTS, CALLS, WARM = 3, 1000, 200
NAMES = ["start.node", "memory.node", "envoy.json", "envoy.grpc"]
ROOT = pathlib.Path(__file__).resolve().parents[1]


class Node:
    """A county's node on this machine, and one report in it."""

    def __init__(self, data: pathlib.Path) -> None:
        self._data, self._port = data, free_ports()
        self.direct = f"unix:{data}/run/services.sock"
        self.gateway = f"127.0.0.1:{self._port}"

    def up(self) -> None:
        options = ["--region", REGION, "--services", "habitat", "--port", str(self._port), "--detach"]
        options += ["--calls-per-caller", "2000"]  # there is but one
        self._villagemesh("up", *options)

    def down(self) -> None:
        self._villagemesh("down")

    def _villagemesh(self, command: str, *options: str) -> None:
        words = [sys.executable, "-m", "cli.main", command, "--data", str(self._data), *options]
        subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    def token(self, role: str) -> str:
        hour = datetime.timedelta(hours=1)
        of = "" if role == "CZ" else "91360423TE5T000169"
        return issuer.sign(
            self._data, subject=f"{role}-1", roles=[role], region=REGION, organisation=of, lasting=hour
        )

    def file(self) -> str:
        """Files a report; its name."""
        token = self.token("CZ")
        photo = attachment_pb2.UploadAttachmentRequest(
            parent=f"regions/{REGION}", content={"data": sample.PHOTO}
        )
        headers = [("authorization", f"Bearer {token}")]
        with grpc.insecure_channel(self.direct) as channel:
            keep = channel.stream_unary("/village.habitat.v1.AttachmentService/UploadAttachment")
            keep(iter([photo.SerializeToString()]), metadata=headers, timeout=20)
        call = load.Call(self.direct, f"{places.SERVICE}/FileReport", places.filing(), token)
        return str(pb.Report.FromString(call.once()).name)

    def processes(self) -> dict[str, psutil.Process]:
        """Its processes by what they are."""
        known = json.loads((self._data / "run/children.json").read_text())
        supervisor = json.loads((self._data / "node.json").read_text())["pid"]
        pids = {"supervisor": supervisor, **{name: child["pid"] for name, child in known.items()}}
        return {name: psutil.Process(pid) for name, pid in pids.items()}


def measure(names: Sequence[str], folder: pathlib.Path) -> Iterator[figures.Figure]:
    """Those of NAMES that are named."""
    node = Node(folder / "node")
    node.up()
    try:
        name = node.file()
        if "start.node" in names:
            yield _start(node, name)
        token = node.token("KA")
        if "memory.node" in names:
            node.down()
            node.up()
            yield _memory(node, name, token)
        for kind in [n for n in names if n.startswith("envoy.")]:
            yield _envoy(kind, node, name, token)
    finally:
        node.down()


def _start(node: Node, name: str) -> figures.Figure:
    token, taken = node.token("KA"), []
    for _ in range(STARTS):
        node.down()
        begun = time.perf_counter()
        node.up()
        with _json(node.gateway, name, token) as call:
            call()
        taken.append(time.perf_counter() - begun)
    about = {
        "what": "`villagemesh up --detach` on a node that was up before, to the first answer through Envoy",
        "runs": f"median of {STARTS}", "spread": f"{min(taken):.2f} to {max(taken):.2f}",
        "target": "at most 3", "load average": figures.load_average(),
    }  # fmt: skip
    return figures.Figure("start.node", round(statistics.median(taken), 2), "s", None, None, about)


def _memory(node: Node, name: str, token: str) -> figures.Figure:
    with _json(node.gateway, name, token) as call:
        for _ in range(WARM):
            call()
    resident = {k: p.memory_info().rss / 1e6 for k, p in node.processes().items()}
    shared = sum(p.memory_full_info().pss for p in node.processes().values()) / 1e6
    about = {
        "what": f"resident memory (RSS) of all processes, {WARM} calls after the start",
        **{k: f"{size:.0f} MB" for k, size in resident.items()},
        "pages that processes share counted once (PSS)": f"{shared:.0f} MB", "target": "at most 230",
    }  # fmt: skip
    return figures.Figure("memory.node", round(sum(resident.values()), 1), "MB", None, None, about)


def _envoy(kind: str, node: Node, name: str, token: str) -> figures.Figure:
    """Calls in turn through Envoy and directly, from one client, one after another."""
    through = _json if kind == "envoy.json" else _grpc
    with through(node.gateway, name, token) as one, _grpc(node.direct, name, token) as two:
        calls, taken = (one, two), ([], [])
        for n in range(2 * (CALLS + WARM)):
            begun = time.perf_counter()
            calls[n % 2]()
            taken[n % 2].append(time.perf_counter() - begun)
    there, direct = (statistics.median(t[WARM:]) * 1000 for t in taken)
    protocol = "JSON over HTTP/1.1, kept alive" if kind == "envoy.json" else "gRPC"
    about = {
        "what": f"GetReport takes longer, as {protocol} through Envoy, than by gRPC on the socket",
        "through Envoy": f"{there:.2f} ms", "calls": f"{CALLS} of each in turn, medians", "callers": 1,
        "database": places.DURABILITY["sqlite"], "load average": figures.load_average(),
    }  # fmt: skip
    if kind == "envoy.json":
        about["target"] = "at most 1.5"
    added = round(there - direct, 3)
    return figures.Figure(kind, added, "ms added", round(direct, 3), round(there / direct, 2), about)


@contextlib.contextmanager
def _json(address: str, name: str, token: str) -> Iterator[Callable[[], None]]:
    connection = http.client.HTTPConnection(address, timeout=20)
    headers = {"authorization": f"Bearer {token}"}

    def call() -> None:
        connection.request("GET", f"/habitat/v1/{name}", headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise load.Failed(body.decode())

    with contextlib.closing(connection):
        yield call


@contextlib.contextmanager
def _grpc(address: str, name: str, token: str) -> Iterator[Callable[[], None]]:
    headers, raw = [("authorization", f"Bearer {token}")], pb.GetReportRequest(name=name).SerializeToString()
    with grpc.insecure_channel(address) as channel:
        ask = load.Call.plain(channel, f"{places.SERVICE}/GetReport")
        yield lambda: ask(raw, metadata=headers, timeout=20)
