"""A province with as many counties as there may be: 179 light ones beside a real one. Each light county joins
as a real one does, keeps its line to the province's broker and asks for the bundle when it is told; one
broker holds the lines of them all, each in an account of its own, and this process is all of their nodes."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import json
import pathlib
import random
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from bench import figures
from deploy.local import broker, directory, joining, prepare
from deploy.local import node as local
from gateway import VERSION, authority
from mesh import bus, callers, links, resources, trust
from tests.mesh import PROVINCE, WUNING, Mesh
from tests.waiting import free_ports, until
from village.mesh.v1 import enrolment_pb2

NAMES = ["mesh.enrol", "mesh.directory", "mesh.memory"]
COUNTIES = 180
RENEW = "/village.mesh.v1.EnrolmentService/RenewBundle"
TICK_S = 1.0
"""How often a real node looks whether it was told."""


@dataclasses.dataclass
class County:
    """A light county: its keys, its line, and the bundle that it holds."""

    region: str
    folder: pathlib.Path
    channel: grpc.Channel
    directory: trust.Directory
    view: trust.View

    @classmethod
    def joined(cls, mesh: Mesh, home: pathlib.Path, region: str) -> "County":
        """Joins by code."""
        folder = home / region
        for part in ("secrets", "trust"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        issuers = folder / "trust/issuers.json"
        issuers.write_text('{"issuers": []}')
        joining.join(folder, region, f"https://127.0.0.1:{mesh.office}", mesh.invite(region), issuers)
        files = ("trust/authority.pem", directory.NODE_KEY, "trust/node.pem")
        proof = grpc.ssl_channel_credentials(*((folder / file).read_bytes() for file in files))
        named = (("grpc.ssl_target_name_override", authority.server_name(PROVINCE)),)
        channel = grpc.secure_channel(f"127.0.0.1:{mesh.office}", proof, named)
        own = trust.Directory(folder / "trust", folder / directory.NODE_KEY, region)
        return cls(region, folder, channel, own, own.view)

    def renew(self) -> None:
        """Asks for the bundle and proves it, as `gateway.node` does."""
        request = enrolment_pb2.RenewBundleRequest(
            parent=f"regions/{PROVINCE}", version=self.view.version, software=VERSION, issuers="[]"
        )
        token = self.directory.token(PROVINCE, resources.utcnow())
        ask = self.channel.unary_unary(RENEW, type(request).SerializeToString, _answer)
        answer = ask(request, metadata=[(callers.NODE, token)], timeout=20)
        if answer.certificate:
            signer = (self.folder / "trust" / trust.AUTHORITY).read_bytes()
            self.view = trust.opened(answer.bundle, signer)

    def remote(self, port: int) -> dict[str, Any]:
        """Its line, for the broker that holds it."""
        line = directory.line(self.folder)
        url = f"ws://{line['user']}:{line['password']}@127.0.0.1:{port}"
        return {"url": url, "ws_compression": True, "account": f"A{self.region}"}


def _answer(raw: bytes) -> enrolment_pb2.RenewBundleResponse:
    return enrolment_pb2.RenewBundleResponse.FromString(raw)


def measure(mesh: Mesh, home: pathlib.Path, names: Sequence[str]) -> Iterator[figures.Figure]:
    """Those of NAMES that are named."""
    before, begun = _resident(mesh), time.perf_counter()
    counties = [County.joined(mesh, home, str(360101 + n)) for n in range(COUNTIES - len(mesh.counties))]
    joined = time.perf_counter() - begun
    if "mesh.enrol" in names:
        about = {
            "what": "the administrator invites a county and it joins by code, one after another",
            "counties": len(counties), "in all": f"{joined:.1f} s", "load average": figures.load_average(),
        }  # fmt: skip
        each = round(joined / len(counties) * 1000, 1)
        yield figures.Figure("mesh.enrol", each, "ms each", None, None, about)
    with _lines(home, counties, mesh.province.port + prepare.LEAVES) as port:
        taken, real = asyncio.run(_change(mesh, counties, port))
        after = _resident(mesh)
    if "mesh.directory" in names:
        about = {
            "what": "from the answer to a grant until every county holds the bundle that says so",
            "counties": f"{len(counties)} light ones, and a real one, which had it after {real:.2f} s",
            "of the light ones": f"first {min(taken):.2f} s, half {statistics.median(taken):.2f} s",
            "lines": "a leaf for each, those of the light ones held by one broker",
            "light": "one process here is all their nodes; each looks once a second, as a node does",
            "bundle": f"{_bundle(mesh)} bytes", "target": "at most 5", "load average": figures.load_average(),
        }  # fmt: skip
        yield figures.Figure("mesh.directory", round(max(*taken, real), 2), "s", None, None, about)
    if "mesh.memory" in names:
        more = {name: after[name] - before.get(name, 0) for name in after}
        about = {
            "what": "resident memory of the province's node with all of them",
            **{name: f"{size:.0f} MB, {more[name]:+.0f}" for name, size in after.items()},
            "for each county": f"{sum(more.values()) / len(counties):.2f} MB",
            "load average": figures.load_average(),
        }  # fmt: skip
        yield figures.Figure("mesh.memory", round(sum(after.values())), "MB", None, None, about)
    for county in counties:
        county.channel.close()


def _resident(mesh: Mesh) -> dict[str, float]:
    return {child.name: child.rss_bytes / 1e6 for child in local.children(mesh.province.data)}


def _bundle(mesh: Mesh) -> int:
    return (mesh.province.data / "trust" / trust.BUNDLE).stat().st_size


@contextlib.contextmanager
def _lines(home: pathlib.Path, counties: Sequence[County], leaves: int) -> Iterator[int]:
    """A broker with a leaf for each county, in an account of its own; its port."""
    port = free_ports(1)
    accounts = {f"A{c.region}": {"users": [{"user": c.region, "password": "own"}]} for c in counties}
    remotes = [c.remote(leaves) for c in counties]
    content = {"host": "127.0.0.1", "port": port, "accounts": accounts, "leafnodes": {"remotes": remotes}}
    (home / "lines.conf").write_text(json.dumps(content))
    with (home / "lines.log").open("wb") as log:
        process = subprocess.Popen([broker.binary(), "-c", str(home / "lines.conf")], stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(20)


async def _change(mesh: Mesh, counties: Sequence[County], port: int) -> tuple[list[float], float]:
    """After how many seconds each light county holds the bundle with a fresh grant, and the real one."""
    loop, heard = asyncio.get_running_loop(), {c.region: asyncio.Event() for c in counties}
    threads = concurrent.futures.ThreadPoolExecutor(16)
    clients = []
    for county in counties:

        async def told(_message: Any, event: asyncio.Event = heard[county.region]) -> None:
            event.set()

        client = await bus.connect(f"nats://{county.region}:own@127.0.0.1:{port}")
        await client.subscribe(links.DIRECTORY, cb=told)
        clients.append(client)
    await asyncio.gather(*(loop.run_in_executor(threads, c.renew) for c in counties))
    await asyncio.to_thread(until, lambda: _leaves(mesh) >= len(counties), 30)
    await asyncio.sleep(2)  # the lines have said what is subscribed to
    for event in heard.values():
        event.clear()
    pair, data = (counties[0].region, "habitat"), mesh.wuning.data
    actual = trust.Directory(data / "trust", data / directory.NODE_KEY, WUNING)
    grant = {"aboutRegion": counties[0].region, "domain": "habitat", "node": counties[0].region}
    path = f"/mesh/v1/regions/{PROVINCE}/grants"
    answer = await asyncio.to_thread(mesh.ask, "POST", path, grant)
    assert answer.status == 200, answer.body
    begun, ends = time.perf_counter(), []

    async def follow(county: County) -> None:
        while pair not in county.view.grants:
            await asyncio.wait_for(heard[county.region].wait(), 40)
            heard[county.region].clear()
            await asyncio.sleep(random.uniform(0, TICK_S))
            await loop.run_in_executor(threads, county.renew)
        ends.append(time.perf_counter() - begun)

    async def real() -> float:
        while pair not in actual.refresh().grants:
            assert time.perf_counter() - begun < 60
            await asyncio.sleep(0.02)
        return time.perf_counter() - begun

    found, *_ = await asyncio.gather(real(), *map(follow, counties))
    for client in clients:
        await client.close()
    threads.shutdown()
    return ends, found


def _leaves(mesh: Mesh) -> int:
    """How many lines end at the province's broker."""
    return asyncio.run(_asked(mesh))


async def _asked(mesh: Mesh) -> int:
    client = await bus.connect(prepare.broker_url(mesh.province.data, "system", mesh.province.port + 1))
    try:
        answer = await client.request("$SYS.REQ.SERVER.PING.LEAFZ", b"", timeout=5)
        return len(json.loads(answer.data)["data"].get("leafs") or ())
    finally:
        await client.close()
