"""How `village_mesh` calls: against a small gRPC server that answers what a test tells it, and remembers."""

import concurrent.futures
import datetime
import ipaddress
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_status import rpc_status

import village_mesh
from mesh import errors, statuses
from tests.waiting import free_port
from village.habitat.v1 import foundation_pb2_grpc, report_pb2, report_pb2_grpc

FILE = report_pb2.FileReportRequest(parent="regions/360423")
Answer = Callable[[Any, grpc.ServicerContext], bytes]


class Service(grpc.GenericRpcHandler):
    """Answers each call with the next of `answers`, the last for ever; what it got is in `calls`."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, dict[str, str], float]] = []
        self.answers: list[Answer] = [lambda raw, context: b""]
        self.server: grpc.Server | None = None

    def start(self, port: int = 0, secret: grpc.ServerCredentials | None = None) -> int:
        self.server = grpc.server(
            concurrent.futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)]
        )
        self.server.add_generic_rpc_handlers([self])
        address = f"127.0.0.1:{port}"
        found = (
            self.server.add_secure_port(address, secret) if secret else self.server.add_insecure_port(address)
        )
        self.server.start()
        return found

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop(0).wait()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        def behave(request: Any, context: grpc.ServicerContext) -> bytes:
            raw = request if isinstance(request, bytes) else b"".join(request)
            metadata = {k: str(v) for k, v in context.invocation_metadata()}
            self.calls.append((details.method.rpartition("/")[2], raw, metadata, context.time_remaining()))
            turn = min(len(self.calls), len(self.answers)) - 1
            return self.answers[turn](raw, context)

        if "Upload" in details.method:
            return grpc.stream_unary_rpc_method_handler(behave)
        if "Download" in details.method:
            return grpc.unary_stream_rpc_method_handler(lambda raw, context: iter([behave(raw, context)]))
        return grpc.unary_unary_rpc_method_handler(behave)

    def ids(self) -> list[str]:
        """The request_ids of what was filed."""
        return [report_pb2.FileReportRequest.FromString(raw).request_id for _, raw, *_ in self.calls]


def refuse(refusal: errors.Refusal) -> Answer:
    def answer(_raw: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort_with_status(rpc_status.to_status(statuses.status(refusal)))
        raise AssertionError

    return answer


@pytest.fixture
def service() -> Iterator[Service]:
    found = Service()
    yield found
    found.stop()


@pytest.fixture
def mesh(service: Service) -> Iterator[village_mesh.Client]:
    with village_mesh.Client(
        f"http://127.0.0.1:{service.start()}", token="t", timeout=5, patience=10
    ) as found:
        yield found


@pytest.fixture
def reports(mesh: village_mesh.Client) -> report_pb2_grpc.ReportServiceStub:
    return mesh.stub(report_pb2_grpc.ReportServiceStub)


AWAY = errors.Unavailable(what="x", delay=0.3)


class TestRepetition:
    def test_waits_for_who_is_away_and_comes_back(self, service: Service) -> None:
        port, asked = free_port(), threading.Event()
        token = lambda: asked.set() or "t"  # noqa: E731 - it says that an attempt was made
        with village_mesh.Client(f"http://127.0.0.1:{port}", token=token) as mesh:
            reports = mesh.stub(report_pb2_grpc.ReportServiceStub)
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                filed = pool.submit(reports.FileReport, FILE)
                assert asked.wait(5)
                service.start(port)
                assert filed.result(10) == report_pb2.Report()
        assert len(service.calls) == 1

    def test_is_of_the_same_request_after_as_long_as_was_asked_for(
        self, service: Service, reports: report_pb2_grpc.ReportServiceStub
    ) -> None:
        service.answers = [refuse(AWAY), refuse(AWAY), lambda raw, context: b""]
        begun = time.monotonic()
        reports.FileReport(FILE)
        assert time.monotonic() - begun > 0.6
        (one,) = set(service.ids())
        assert len(service.calls) == 3
        assert uuid.UUID(one)
        assert FILE.request_id == ""
        reports.FileReport(FILE)
        assert service.ids()[3] not in ("", one)

    def test_keeps_the_caller_s_own_request_id(
        self, service: Service, reports: report_pb2_grpc.ReportServiceStub
    ) -> None:
        reports.FileReport(report_pb2.FileReportRequest(request_id="mine"))
        assert service.ids() == ["mine"]

    def test_gives_each_action_of_a_batch_its_own(
        self, service: Service, reports: report_pb2_grpc.ReportServiceStub
    ) -> None:
        actions = [{"accept": {"name": "a"}}, {"accept": {"name": "b"}}]
        reports.BatchActOnReports(report_pb2.BatchActOnReportsRequest(actions=actions))
        sent = report_pb2.BatchActOnReportsRequest.FromString(service.calls[0][1])
        ids = {sent.request_id, *(action.accept.request_id for action in sent.actions)}
        assert len(ids - {""}) == 3

    def test_ends_before_patience_would(self, service: Service, reports: Any) -> None:
        service.answers = [refuse(errors.Unavailable(what="x", delay=3600))]
        with pytest.raises(village_mesh.Refusal) as refused:
            reports.GetReport(report_pb2.GetReportRequest())
        assert (refused.value.code, refused.value.delay) == (grpc.StatusCode.UNAVAILABLE, 3600)
        assert len(service.calls) == 1

    @pytest.mark.parametrize(
        "refusal", [errors.Overloaded(what="x"), errors.Conflict(name="x"), errors.DeadlineExceeded()]
    )
    def test_is_of_nothing_else(self, service: Service, reports: Any, refusal: errors.Refusal) -> None:
        service.answers = [refuse(refusal)]
        with pytest.raises(village_mesh.Refusal, match=refusal.reason):
            reports.FileReport(FILE)
        assert len(service.calls) == 1

    def test_is_not_of_what_could_happen_twice(self, service: Service, mesh: village_mesh.Client) -> None:
        service.answers = [refuse(AWAY)]
        with pytest.raises(village_mesh.Refusal):
            mesh.stub(foundation_pb2_grpc.UnsealingServiceStub).OpenUnsealing(_open())
        assert len(service.calls) == 1


def _open() -> Any:
    from village.mesh.v1 import unsealing_pb2

    return unsealing_pb2.OpenUnsealingRequest(name="x", purpose="y")


class TestCall:
    def test_has_a_deadline_unless_it_says_its_own(self, service: Service, reports: Any) -> None:
        reports.GetReport(report_pb2.GetReportRequest())
        reports.GetReport(report_pb2.GetReportRequest(), timeout=2)
        assert 4 < service.calls[0][3] < 5.5
        assert 1 < service.calls[1][3] < 2.5

    def test_asks_for_a_token_before_every_attempt(self, service: Service) -> None:
        tokens = iter(["old", "new"])
        service.answers = [refuse(AWAY), lambda raw, context: b""]
        url = f"http://127.0.0.1:{service.start()}"
        with village_mesh.Client(url, token=lambda: next(tokens)) as mesh:
            mesh.stub(report_pb2_grpc.ReportServiceStub).FileReport(FILE)
        assert [call[2]["authorization"] for call in service.calls] == ["Bearer old", "Bearer new"]

    def test_is_told_who_answered_and_as_of_when(self, service: Service, reports: Any) -> None:
        def answer(_raw: bytes, context: grpc.ServicerContext) -> bytes:
            headers = {"served-by": "360000", "as-of": "2026-11-27T01:02:03.5Z", "delivery": "d"}
            context.send_initial_metadata(tuple((f"x-village-{k}", v) for k, v in headers.items()))
            return b""

        service.answers = [answer, lambda raw, context: b""]
        _, call = reports.GetReport.with_call(report_pb2.GetReportRequest())
        moment = datetime.datetime(2026, 11, 27, 1, 2, 3, 500_000, datetime.UTC)
        assert village_mesh.told(call) == village_mesh.Told("360000", moment, "d")
        _, call = reports.GetReport.with_call(report_pb2.GetReportRequest())
        assert village_mesh.told(call) == village_mesh.Told()

    def test_reads_page_after_page(self, service: Service, reports: Any) -> None:
        def answer(raw: bytes, _context: grpc.ServicerContext) -> bytes:
            at = int(report_pb2.ListReportsRequest.FromString(raw).page_token or "0")
            found = report_pb2.ListReportsResponse(reports=[report_pb2.Report(name=str(at))])
            found.next_page_token = str(at + 1) if at < 2 else ""
            return found.SerializeToString()

        service.answers = [answer]
        request = report_pb2.ListReportsRequest(page_size=1)
        assert [r.name for r in village_mesh.pages(reports.ListReports, request)] == ["0", "1", "2"]
        assert request.page_token == ""

    def test_by_tls_believes_whom_it_is_told_to(self, service: Service) -> None:
        key, certificate = _certificate()
        port = service.start(secret=grpc.ssl_server_credentials([(key, certificate)]))
        url = f"https://127.0.0.1:{port}"
        with village_mesh.Client(url, trusted=certificate) as mesh:
            mesh.stub(report_pb2_grpc.ReportServiceStub).FileReport(FILE)
        with (
            village_mesh.Client(url, patience=0.1) as mesh,
            pytest.raises(village_mesh.Refusal) as refused,
        ):
            mesh.stub(report_pb2_grpc.ReportServiceStub).FileReport(FILE)
        assert refused.value.code is grpc.StatusCode.UNAVAILABLE

    @pytest.mark.parametrize("url", ["127.0.0.1:8423", "ftp://a", "http://", "http://a/habitat/v1"])
    def test_is_not_to_what_is_no_address(self, url: str) -> None:
        with pytest.raises(ValueError, match="is not an address"):
            village_mesh.Client(url)


class TestRefusal:
    def test_says_what_and_why(self, service: Service, reports: Any) -> None:
        wrong = [("report.division", "is not a village"), ("parent", "is missing")]
        service.answers = [refuse(errors.Invalid.several(wrong)), refuse(errors.NotFound(name="reports/1"))]
        with pytest.raises(village_mesh.Refusal) as refused:
            reports.FileReport(FILE)
        said = refused.value
        assert (said.code, said.reason, said.domain) == (
            grpc.StatusCode.INVALID_ARGUMENT, "INVALID", "mesh.village"
        )  # fmt: skip
        assert said.fields == dict(wrong)
        assert "不" in said.chinese or "请" in said.chinese, said.chinese
        assert "report.division: is not a village" in str(said)
        with pytest.raises(village_mesh.Refusal) as refused:
            reports.GetReport(report_pb2.GetReportRequest())
        assert refused.value.resource == "reports/1"

    def test_comes_of_streams_too(self, service: Service, mesh: village_mesh.Client, reports: Any) -> None:
        service.answers = [refuse(errors.Forbidden(method="x", why="y"))]
        up = mesh.stub(foundation_pb2_grpc.AttachmentServiceStub).UploadAttachment
        with pytest.raises(village_mesh.Refusal, match="FORBIDDEN"):
            up(iter([]))
        down = reports.DownloadReportPhoto(report_pb2.DownloadReportPhotoRequest())
        with pytest.raises(village_mesh.Refusal, match="FORBIDDEN"):
            list(down)
        assert [call[2]["authorization"] for call in service.calls] == ["Bearer t"] * 2

    def test_without_details_has_a_code(self, service: Service, reports: Any) -> None:
        def answer(_raw: bytes, context: grpc.ServicerContext) -> bytes:
            context.set_trailing_metadata((("retry-after", "7"),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")
            raise AssertionError

        service.answers = [answer]
        with pytest.raises(village_mesh.Refusal) as refused:
            reports.FileReport(FILE)
        assert (refused.value.reason, refused.value.delay, refused.value.message) == ("", 7, "too many")


def _certificate() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "node")])
    now = datetime.datetime.now(datetime.UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(alternative, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, made.public_bytes(pem)
