"""Files and readings in a mesh (I4): they go up and come down at any gateway; one line carries them beside
everything else; nothing of a file is kept that has not come whole."""

import concurrent.futures
import contextlib
import hashlib
import http.client
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.api import httpbody_pb2

from cli import sample
from deploy.local import node as local
from tests.integration.test_mesh_calls import GATEWAYS, OWNERS, gateway, official, reports
from tests.mesh import WUNING, XIUSHUI, Answer, Mesh, Node, report
from tests.waiting import until
from village.habitat.v1 import reading_pb2
from village.habitat.v1 import report_pb2 as pb
from village.type.v1 import attachment_pb2

UPLOAD = "/village.habitat.v1.AttachmentService/UploadAttachment"
DOWNLOAD = "/village.habitat.v1.ReportService/DownloadReportPhoto"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Mesh(tmp_path_factory.mktemp("mesh")) as started:
        resident = started.xiushui.token("CZ")
        until(lambda: started.province.file(XIUSHUI, token=resident).status == 200)
        yield started


@pytest.fixture
def mesh(running: Mesh) -> Iterator[Mesh]:
    """The mesh, whose line a test may leave cut or slow."""
    yield running
    running.line.throttle(0)
    running.line.restore()
    until(running.well, 30)


def photo(size: int = 300_000) -> bytes:
    return sample.PHOTO + os.urandom(size)


def video(size: int) -> bytes:
    return b"\0\0\0\x10ftypisom\0\0\0\0" + (size + 8).to_bytes(4, "big") + b"mdat" + os.urandom(size)


def put(node: Node, region: str, content: bytes, token: str) -> Answer:
    """Uploads a file as a browser does."""
    connection = http.client.HTTPConnection(node.host, node.port, timeout=60)
    with contextlib.closing(connection):
        told = {"authorization": f"Bearer {token}", "content-type": "image/jpeg"}
        connection.request("POST", f"/habitat/v1/regions/{region}/attachments", content, told)
        response = connection.getresponse()
        text = response.read().decode()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, text)


def sent(
    node: Node, messages: Iterator[bytes], token: str, timeout: float | None = None, region: str = WUNING
) -> Any:
    """Uploads a file by gRPC, message by message; what it is kept as, or the status."""

    def asked() -> Iterator[attachment_pb2.UploadAttachmentRequest]:
        for n, part in enumerate(messages):
            parent = "" if n else f"regions/{region}"
            yield attachment_pb2.UploadAttachmentRequest(
                parent=parent, content=httpbody_pb2.HttpBody(data=part)
            )

    with grpc.insecure_channel(f"127.0.0.1:{node.port}") as channel:
        call = channel.stream_unary(
            UPLOAD,
            attachment_pb2.UploadAttachmentRequest.SerializeToString,
            attachment_pb2.Attachment.FromString,
        )
        try:
            return call(asked(), metadata=[("authorization", f"Bearer {token}")], timeout=timeout)
        except grpc.RpcError as fault:
            return fault.code().name  # type: ignore[attr-defined]


def parts(content: bytes, size: int = MIB) -> Iterator[bytes]:
    return (content[at : at + size] for at in range(0, len(content), size))


def filed(node: Node, region: str, token: str, kept: Any) -> str:
    """The name of a report with a photo."""
    said = {"sha256": kept.sha256, "mediaType": kept.media_type, "sizeBytes": kept.size_bytes}
    found = node.call("POST", reports(region), {**report(region), "photos": [said]}, token=token)
    assert found.status == 200, found.body
    return str(found.body["name"])


@contextlib.contextmanager
def downloading(node: Node, name: str, digest: str, token: str) -> Iterator[Any]:
    """A download by gRPC: an iterator of messages, of which few are fetched before they are asked for."""
    with grpc.insecure_channel(f"127.0.0.1:{node.port}", [("grpc.http2.bdp_probe", 0)]) as channel:
        ask = channel.unary_stream(
            DOWNLOAD, pb.DownloadReportPhotoRequest.SerializeToString, httpbody_pb2.HttpBody.FromString
        )
        request = pb.DownloadReportPhotoRequest(name=name, sha256=digest)
        yield ask(request, metadata=[("authorization", f"Bearer {token}")], timeout=60)


def got(node: Node, name: str, digest: str, token: str) -> bytes:
    with downloading(node, name, digest, token) as messages:
        return b"".join(message.data for message in messages)


def files(node: Node) -> set[str]:
    """What the node keeps."""
    return {path.name for path in (node.data / "data/attachments").glob("*/*")}


class TestAnyGateway:
    @pytest.mark.parametrize("region", OWNERS)
    @pytest.mark.parametrize("at", GATEWAYS)
    def test_takes_a_file_and_gives_it_to_whom_it_concerns(self, mesh: Mesh, at: str, region: str) -> None:
        here, owner = gateway(mesh, at), gateway(mesh, OWNERS[region])
        content, resident = photo(), official(mesh, region, "CZ")
        digest = hashlib.sha256(content).hexdigest()
        found = put(here, region, content, resident)
        assert (found.status, digest in found.body) == (200, True), found.body
        assert {digest} <= files(owner)
        assert owner is mesh.province or digest not in files(mesh.province)
        kept = attachment_pb2.Attachment(sha256=digest, media_type="image/jpeg", size_bytes=len(content))
        name = filed(here, region, resident, kept)
        for token in (resident, official(mesh, region)):
            assert got(here, name, digest, token) == content
            served = here.call("GET", f"/habitat/v1/{name}/photos/{'0' * 64}", token=token)
            assert (served.status, served.served_by) == (404, OWNERS[region])
        other = official(mesh, {WUNING: XIUSHUI, XIUSHUI: WUNING}[region])
        for stranger in (
            other,
            mesh.province.token("PA"),
            mesh.counties[region].token("CZ", region, "resident-9"),
        ):
            refused = here.call("GET", f"/habitat/v1/{name}/photos/{digest}", token=stranger)
            assert (refused.status, refused.reason) == (403, "FORBIDDEN")

    @pytest.mark.parametrize("at", GATEWAYS)
    def test_passes_on_what_the_owner_refuses_before_all_has_come(self, mesh: Mesh, at: str) -> None:
        given = 0

        def endless() -> Iterator[bytes]:
            nonlocal given
            while given < 400:
                given += 1
                yield b"MZ" + bytes(MIB)

        assert sent(gateway(mesh, at), endless(), official(mesh, WUNING, "CZ")) == "FAILED_PRECONDITION"
        assert given < 40

    @pytest.mark.parametrize("at", GATEWAYS)
    def test_takes_readings_for_the_owner(self, mesh: Mesh, at: str) -> None:
        path = "/village.habitat.v1.ReadingService/StreamReadings"
        request = reading_pb2.StreamReadingsRequest(
            parent=f"regions/{WUNING}", station=f"regions/{WUNING}/stations/nowhere"
        )
        request.series.add(factor="ph", times_ms=[1], values=[7.0])
        with grpc.insecure_channel(f"127.0.0.1:{gateway(mesh, at).port}") as channel:
            ask = channel.stream_unary(
                path,
                reading_pb2.StreamReadingsRequest.SerializeToString,
                reading_pb2.StreamReadingsResponse.FromString,
            )
            told = [("authorization", f"Bearer {official(mesh, WUNING)}")]
            with pytest.raises(grpc.RpcError) as refused:
                ask(iter([request]), metadata=told, timeout=20)
            assert "stations/nowhere" in refused.value.details()  # type: ignore[attr-defined]


class TestLine:
    def test_that_is_away_is_said_at_once(self, mesh: Mesh) -> None:
        token = official(mesh, WUNING, "CZ")
        mesh.line.cut()
        for at in (mesh.province, mesh.xiushui):
            begun = time.monotonic()
            assert sent(at, parts(photo()), token) == "UNAVAILABLE"
            assert time.monotonic() - begun < 2
        assert "NOT_DELIVERED" in put(mesh.province, WUNING, photo(), token).body

    def test_that_is_cut_in_the_middle_leaves_nothing_behind(self, mesh: Mesh) -> None:
        content, token, before = photo(), official(mesh, WUNING, "CZ"), files(mesh.wuning)

        def cutting() -> Iterator[bytes]:
            yield content[:100_000]
            until(lambda: mesh.line.bytes_down > begun + 100_000)
            mesh.line.cut()
            yield content[100_000:]

        begun = mesh.line.bytes_down
        assert sent(mesh.province, cutting(), token) == "DEADLINE_EXCEEDED"
        mesh.line.restore()
        until(mesh.well, 30)
        assert files(mesh.wuning) == before
        for _ in range(2):  # and may be sent again, and again
            kept = sent(mesh.province, parts(content), token)
            assert kept.size_bytes == len(content)
        assert files(mesh.wuning) - before == {kept.sha256}

    def test_that_is_cut_breaks_a_download_off_and_says_so(self, mesh: Mesh) -> None:
        token = official(mesh, WUNING, "CZ")
        kept = sent(mesh.wuning, parts(photo(3 * MIB)), token)
        name = filed(mesh.wuning, WUNING, token, kept)
        with downloading(mesh.province, name, kept.sha256, token) as messages:
            assert len(next(messages).data) > 10_000
            seen = [mesh.line.bytes_up]

            def still() -> bool:
                seen.append(mesh.line.bytes_up)
                return len(seen) > 30 and seen[-1] - seen[-30] < MIB / 10

            until(still)
            mesh.line.cut()  # while nobody reads, no piece is asked for
            with pytest.raises(grpc.RpcError) as broken:
                list(messages)
        assert broken.value.code().name == "DEADLINE_EXCEEDED"  # type: ignore[attr-defined]

    def test_that_hangs_ends_with_the_caller_s_time(self, mesh: Mesh) -> None:
        mesh.line.hang()
        begun = time.monotonic()
        code = sent(mesh.province, parts(photo()), official(mesh, WUNING, "CZ"), timeout=2)
        assert (code, time.monotonic() - begun < 3) == ("DEADLINE_EXCEEDED", True)

    def test_that_is_slow_carries_calls_past_a_file(self, mesh: Mesh) -> None:
        resident, token = official(mesh, WUNING, "CZ"), mesh.province.token("PA")
        name = mesh.wuning.file(token=resident).body["name"]
        mesh.line.throttle(128 * 1024)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            files = [pool.submit(sent, mesh.province, parts(photo(250_000)), resident) for _ in range(2)]
            taken = []
            while not all(file.done() for file in files):
                begun = time.monotonic()
                told = {"x-village-read": "owner"}
                found = mesh.province.call("GET", f"/habitat/v1/{name}", token=token, headers=told)
                assert (found.status, found.served_by) == (200, WUNING)
                taken.append(time.monotonic() - begun)
            assert all(file.result().size_bytes > 250_000 for file in files)
        assert len(taken) > 4
        assert max(taken) < 2
        assert sorted(taken)[len(taken) // 2] < 1


class TestMemory:
    def test_of_neither_node_holds_a_video(self, mesh: Mesh) -> None:
        content, token = video(32 * MIB), official(mesh, WUNING, "CZ")
        nodes = (mesh.province, mesh.wuning)
        sent(mesh.province, parts(photo()), token)
        before, most, done = [_resident(node) for node in nodes], [0.0, 0.0], threading.Event()

        def watch() -> None:
            while not done.wait(0.05):
                most[:] = [max(m, _resident(node)) for m, node in zip(most, nodes, strict=True)]

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            kept = sent(mesh.province, parts(content, 256 * 1024), token, timeout=120)
            assert kept.sha256 == hashlib.sha256(content).hexdigest()
            name = filed(mesh.province, WUNING, token, kept)
            assert got(mesh.province, name, kept.sha256, token) == content
        finally:
            done.set()
            watching.join()
        added = [m - b for m, b in zip(most, before, strict=True)]
        assert max(added) < 27, added


def _resident(node: Node) -> float:
    """Megabytes of the node's services and broker."""
    children = local.children(node.data)
    return sum(child.rss_bytes for child in children if child.name in ("services", "nats")) / 1e6
