"""The gateway with a real Envoy, before a small gRPC server that records what reaches it."""

import base64
import concurrent.futures
import dataclasses
import http.client
import json
import os
import pathlib
import re
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from gateway import envoy
from tests.waiting import free_ports, until
from village.habitat.v1 import report_pb2

ROOT = pathlib.Path(__file__).resolve().parents[2]
ISSUER = "https://360423.village.invalid/development"
PROVINCE = "https://login.province.invalid"
ORIGIN = "https://app.example"
REPORTS = "/habitat/v1/regions/360423/reports"
FILE = "/village.habitat.v1.ReportService/FileReport"
GET = "/village.habitat.v1.ReportService/GetReport"
GOOD = {"category": "CATEGORY_WASTE", "description": "路边垃圾", "division": "360423100201"}

Answer = Callable[[bytes, grpc.ServicerContext], bytes]


class Upstream:
    """A gRPC server on a unix socket. Answers what the test tells it to and remembers every call."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.calls: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: dict[str, Answer] = {FILE: self._file}
        self.server: grpc.Server | None = None

    def start(self) -> None:
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        self.server.add_generic_rpc_handlers((self,))
        # Relative, because the address of a unix socket may be 107 bytes long.
        assert self.server.add_insecure_port(f"unix:{os.path.relpath(self.path)}")
        self.server.start()

    def stop(self) -> None:
        if self.server:
            self.server.stop(0).wait()
            self.server = None
        self.path.unlink(missing_ok=True)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        answer = self.answers.get(details.method)
        if not answer:
            return None

        def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
            metadata = {k: v for k, v in context.invocation_metadata() if isinstance(v, str)}
            self.calls.append((details.method, metadata, request))
            return answer(request, context)

        return grpc.unary_unary_rpc_method_handler(behaviour)

    def _file(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        filed = report_pb2.FileReportRequest.FromString(request)
        filed.report.name = f"{filed.parent}/reports/1"
        return filed.report.SerializeToString()


@dataclasses.dataclass
class Gateway:
    """A running Envoy and what the test needs around it."""

    folder: pathlib.Path
    spec: envoy.NodeSpec
    upstream: Upstream
    key: ed25519.Ed25519PrivateKey
    province: ec.EllipticCurvePrivateKey

    def token(self, *, key: Any = None, lasts: int = 600, **claims: Any) -> str:
        now = int(time.time())
        stated = {"iss": ISSUER, "sub": "cz-1", "aud": "village-mesh", "exp": now + lasts, **claims}
        return jwt.encode(stated, key or self.key, algorithm="EdDSA", headers={"kid": "dev"})

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: dict[str, str] | None = None,
        token: str | None = "good",
    ) -> tuple[int, dict[str, str], bytes]:
        sent = dict(headers or {})
        if token:
            sent["authorization"] = f"Bearer {self.token() if token == 'good' else token}"
        if body is not None and not isinstance(body, bytes):
            sent.setdefault("content-type", "application/json")
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.spec.port, timeout=20)
        try:
            connection.request(method, path, body=body, headers=sent)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, **rest: Any) -> tuple[int, dict[str, Any]]:
        status, headers, body = self.ask(method, path, **rest)
        assert headers["content-type"] == "application/json", body
        return status, json.loads(body)

    def call(self, method: str, request: bytes, *, token: str | None = "good", **rest: Any) -> bytes:
        metadata = list(rest.pop("metadata", ()))
        if token:
            metadata.append(("authorization", f"Bearer {self.token() if token == 'good' else token}"))
        with grpc.insecure_channel(f"127.0.0.1:{self.spec.port}") as channel:
            answer = channel.unary_unary(method)(request, timeout=10, metadata=metadata, **rest)
            assert isinstance(answer, bytes)
            return answer

    def admin(self, path: str) -> str:
        """Envoy's admin interface, over its unix socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(os.path.relpath(self.folder / self.spec.admin_socket))
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
        return b"".join(parts).decode()

    def reload(self, spec: envoy.NodeSpec) -> None:
        """Writes another listener and waits until Envoy has taken it up."""

        def taken() -> int:
            found = re.search(r"lds\.update_success: (\d+)", self.admin("/stats?filter=lds.update_success"))
            assert found
            return int(found[1])

        before = taken()
        envoy.write(spec, self.folder)
        until(lambda: taken() > before)

    def answers(self) -> bool:
        try:
            return self.ask("GET", "/healthz", token=None)[0] == 200
        except OSError:
            return False


def _jwks(key: ed25519.Ed25519PrivateKey) -> dict[str, Any]:
    x = base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).rstrip(b"=").decode()
    return {"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "dev", "x": x}]}


def _ec_jwks(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    numbers = key.public_key().public_numbers()
    x, y = (base64.urlsafe_b64encode(n.to_bytes(32)).rstrip(b"=").decode() for n in (numbers.x, numbers.y))
    return {"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "p", "x": x, "y": y}]}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    for name in ("run", "logs", "trust"):
        (folder / name).mkdir()
    key = ed25519.Ed25519PrivateKey.generate()
    (folder / "trust/jwks.json").write_text(json.dumps(_jwks(key)))
    province = ec.generate_private_key(ec.SECP256R1())
    (folder / "trust/province.json").write_text(json.dumps(_ec_jwks(province)))
    spec = envoy.NodeSpec(
        region="360423",
        address="127.0.0.1",
        port=free_ports(),
        endpoints={"habitat": "unix:run/services.sock"},
        node_endpoint="unix:run/services.sock",
        issuers=(
            envoy.Issuer(issuer=ISSUER, jwks=folder / "trust/jwks.json"),
            envoy.Issuer(issuer=PROVINCE, jwks=folder / "trust/province.json"),
        ),
        descriptor_set=ROOT / "gen/village.binpb",
        cors_origins=(ORIGIN,),
    )
    envoy.write(spec, folder)
    upstream = Upstream(folder / "run/services.sock")
    upstream.start()
    with (folder / "logs/envoy.log").open("w") as log:
        process = subprocess.Popen(
            envoy.command(spec, concurrency=1), cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    gateway = Gateway(folder, spec, upstream, key, province)
    try:
        until(lambda: process.poll() is not None or gateway.answers())
        assert process.poll() is None, (folder / "logs/envoy.log").read_text()
        yield gateway
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()
            process.wait()
            upstream.stop()


@pytest.fixture
def gateway(running: Gateway) -> Iterator[Gateway]:
    """The gateway as it was started, with an upstream that is up and has seen nothing."""
    if running.upstream.server is None:
        running.upstream.start()
    running.upstream.calls.clear()
    before = dict(running.upstream.answers)
    yield running
    running.upstream.answers = before


def refuse_with_details(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Refuses as the services do: with the field that is wrong."""
    detail = any_pb2.Any()
    violation = error_details_pb2.BadRequest.FieldViolation(field="report.division", description="not here")
    detail.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason="INVALID", domain="mesh.village"))
    status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="no", details=[info, detail])
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort returns never")


class TestJson:
    def test_files_a_report_as_grpc(self, gateway: Gateway) -> None:
        status, body = gateway.json("POST", f"{REPORTS}?requestId=abc", body=GOOD)
        assert (status, body["name"]) == (200, "regions/360423/reports/1")
        (method, _, raw), *more = gateway.upstream.calls
        request = report_pb2.FileReportRequest.FromString(raw)
        assert (method, more) == (FILE, [])
        assert (request.parent, request.request_id) == ("regions/360423", "abc")
        assert request.report.description == "路边垃圾"

    def test_prints_zero_values(self, gateway: Gateway) -> None:
        _, body = gateway.json("POST", REPORTS, body=GOOD)
        assert (body["reworkCount"], body["overdue"]) == (0, False)

    def test_refuses_an_unknown_query_parameter(self, gateway: Gateway) -> None:
        status, body = gateway.json("POST", f"{REPORTS}?colour=red", body=GOOD)
        assert (status, body["code"], body["details"]) == (400, 3, [])
        assert "colour" in body["message"]
        assert gateway.upstream.calls == []

    def test_refuses_a_bad_enum(self, gateway: Gateway) -> None:
        status, body = gateway.json("POST", REPORTS, body={**GOOD, "category": "CATEGORY_NONSENSE"})
        assert (status, body["code"]) == (400, 3)
        assert gateway.upstream.calls == []

    def test_refuses_what_is_not_json(self, gateway: Gateway) -> None:
        status, body = gateway.json("POST", REPORTS, body=b"{", headers={"content-type": "application/json"})
        assert (status, body["code"]) == (400, 3)

    def test_refuses_a_body_of_two_megabytes_and_says_the_limit(self, gateway: Gateway) -> None:
        status, body = gateway.json("POST", REPORTS, body={**GOOD, "description": "x" * 2_000_000})
        assert (status, body["code"]) == (413, 3)
        assert "1048576" in body["message"]
        assert gateway.upstream.calls == []

    def test_passes_a_body_below_the_limit(self, gateway: Gateway) -> None:
        status, body = gateway.json("POST", REPORTS, body={**GOOD, "description": "x" * 900_000})
        assert (status, len(body["description"])) == (200, 900_000)

    @pytest.mark.parametrize("path", ["/", "/nothing", f"{REPORTS}/1:melt", "/culture/v1/regions/360423/x"])
    def test_answers_an_unknown_path_with_not_found(self, gateway: Gateway, path: str) -> None:
        status, body = gateway.json("POST", path, body={})
        assert (status, body["code"], body["details"]) == (404, 5, [])

    @pytest.mark.parametrize("path", [f"{REPORTS}%2F1", f"{REPORTS}%5C1"])
    def test_refuses_escaped_slashes(self, gateway: Gateway, path: str) -> None:
        status, body = gateway.json("GET", path)
        assert (status, body["code"]) == (400, 3)

    def test_shows_rich_details_of_a_refusal(self, gateway: Gateway) -> None:
        gateway.upstream.answers[FILE] = refuse_with_details
        status, body = gateway.json("POST", REPORTS, body=GOOD)
        assert (status, body["code"], body["message"]) == (400, 3, "no")
        by_type = {detail["@type"].rpartition(".")[2]: detail for detail in body["details"]}
        assert by_type["ErrorInfo"]["reason"] == "INVALID"
        assert by_type["BadRequest"]["fieldViolations"][0]["field"] == "report.division"

    def test_answers_healthz_without_a_token(self, gateway: Gateway) -> None:
        assert gateway.ask("GET", "/healthz", token=None)[0] == 200
        assert gateway.ask("GET", "/healthz", token="rubbish")[0] == 200


class TestGrpc:
    def test_files_a_report(self, gateway: Gateway) -> None:
        request = report_pb2.FileReportRequest(parent="regions/360423")
        answer = report_pb2.Report.FromString(gateway.call(FILE, request.SerializeToString()))
        assert answer.name == "regions/360423/reports/1"

    def test_tells_the_service_the_deadline(self, gateway: Gateway) -> None:
        left: list[float] = []

        def measure(request: bytes, context: grpc.ServicerContext) -> bytes:
            left.append(context.time_remaining() or 0)
            return b""

        gateway.upstream.answers[FILE] = measure
        gateway.json("POST", REPORTS, body=GOOD)
        gateway.call(FILE, b"")
        assert 12 < left[0] < 16
        assert 7 < left[1] < 11

    def test_is_not_held_to_the_limit_of_json(self, gateway: Gateway) -> None:
        request = report_pb2.FileReportRequest()
        request.report.description = "x" * 2_000_000
        answer = report_pb2.Report.FromString(gateway.call(FILE, request.SerializeToString()))
        assert len(answer.description) == 2_000_000

    def test_carries_a_refusal_with_details(self, gateway: Gateway) -> None:
        gateway.upstream.answers[FILE] = refuse_with_details
        with pytest.raises(grpc.RpcError) as refused:
            gateway.call(FILE, b"")
        status = rpc_status.from_call(refused.value)
        assert (status.code, len(status.details)) == (code_pb2.INVALID_ARGUMENT, 2)

    @pytest.mark.parametrize("method", ["/village.habitat.v1.ReportService/Melt", "/a.B/C"])
    def test_answers_an_unknown_method_with_unimplemented(self, gateway: Gateway, method: str) -> None:
        with pytest.raises(grpc.RpcError) as refused:
            gateway.call(method, b"")
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED

    def test_refuses_a_bad_token(self, gateway: Gateway) -> None:
        with pytest.raises(grpc.RpcError) as refused:
            gateway.call(FILE, b"", token=gateway.token(lasts=-600))
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert "expired" in refused.value.details()

    def test_tries_a_read_again_and_a_write_never(self, gateway: Gateway) -> None:
        def away(request: bytes, context: grpc.ServicerContext) -> bytes:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the database is away")
            raise AssertionError

        gateway.upstream.answers |= {FILE: away, GET: away}
        for method in (FILE, GET):
            with pytest.raises(grpc.RpcError) as refused:
                gateway.call(method, b"")
            assert refused.value.details() == "the database is away"
        seen = [method for method, _, _ in gateway.upstream.calls]
        assert (seen.count(FILE), seen.count(GET)) == (1, 3)


class TestGrpcWeb:
    def test_answers_a_page_of_an_allowed_origin(self, gateway: Gateway) -> None:
        message = report_pb2.FileReportRequest(parent="regions/360423").SerializeToString()
        status, headers, body = gateway.ask(
            "POST",
            FILE,
            body=struct.pack(">BI", 0, len(message)) + message,
            headers={"content-type": "application/grpc-web+proto", "origin": ORIGIN, "x-grpc-web": "1"},
        )
        flag, length = struct.unpack(">BI", body[:5])
        assert (status, flag) == (200, 0)
        assert report_pb2.Report.FromString(body[5 : 5 + length]).name == "regions/360423/reports/1"
        assert b"grpc-status:0" in body[5 + length :]
        assert headers["access-control-allow-origin"] == ORIGIN

    def test_lets_a_page_read_why_its_token_was_refused(self, gateway: Gateway) -> None:
        sent = {"content-type": "application/grpc-web+proto", "origin": ORIGIN, "x-grpc-web": "1"}
        token = gateway.token(lasts=-600)
        status, headers, _ = gateway.ask("POST", FILE, body=bytes(5), headers=sent, token=token)
        refused = status == 401 or headers.get("grpc-status") == "16"
        assert (refused, headers["access-control-allow-origin"]) == (True, ORIGIN)


PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}


class TestCors:
    @pytest.mark.parametrize("path", [REPORTS, FILE, "/mesh/v1/node"])
    def test_answers_preflight_without_a_token(self, gateway: Gateway, path: str) -> None:
        status, headers, _ = gateway.ask("OPTIONS", path, headers={"origin": ORIGIN, **PREFLIGHT}, token=None)
        assert (status, headers["access-control-allow-origin"]) == (200, ORIGIN)
        assert "authorization" in headers["access-control-allow-headers"]

    def test_gives_a_foreign_origin_nothing(self, gateway: Gateway) -> None:
        sent = {"origin": "https://evil.example"}
        _, preflight, _ = gateway.ask("OPTIONS", REPORTS, headers={**sent, **PREFLIGHT}, token=None)
        _, answer, _ = gateway.ask("POST", REPORTS, body=GOOD, headers=sent)
        assert "access-control-allow-origin" not in {**preflight, **answer}

    def test_marks_answers_and_refusals(self, gateway: Gateway) -> None:
        sent = {"origin": ORIGIN}
        answers = [
            gateway.ask("POST", REPORTS, body=GOOD, headers=sent),
            gateway.ask("POST", REPORTS, body=GOOD, headers=sent, token=gateway.token(lasts=-600)),
            gateway.ask("POST", f"{REPORTS}?colour=red", body=GOOD, headers=sent),
        ]
        assert [status for status, _, _ in answers] == [200, 401, 400]
        assert [headers.get("access-control-allow-origin") for _, headers, _ in answers] == [ORIGIN] * 3


class TestTokens:
    def test_passes_a_good_token_on(self, gateway: Gateway) -> None:
        token = gateway.token()
        assert gateway.json("POST", REPORTS, body=GOOD, token=token)[0] == 200
        assert gateway.upstream.calls[0][1]["authorization"] == f"Bearer {token}"

    def test_lets_a_missing_token_reach_the_service(self, gateway: Gateway) -> None:
        assert gateway.json("POST", REPORTS, body=GOOD, token=None)[0] == 200
        assert "authorization" not in gateway.upstream.calls[0][1]

    @pytest.mark.parametrize(
        "claims",
        [
            {"lasts": -600},
            {"key": ed25519.Ed25519PrivateKey.generate()},
            {"iss": "https://elsewhere.invalid"},
            {"aud": "another"},
            {"exp": None},
            {"nbf": int(time.time()) + 600},
        ],
        ids=["expired", "foreign key", "foreign issuer", "foreign audience", "endless", "not yet valid"],
    )
    def test_refuses_a_bad_one(self, gateway: Gateway, claims: dict[str, Any]) -> None:
        claims = dict(claims)
        token = gateway.token(**claims)
        if "exp" in claims:
            stated = jwt.decode(token, options={"verify_signature": False, "verify_exp": False})
            del stated["exp"]
            token = jwt.encode(stated, gateway.key, algorithm="EdDSA", headers={"kid": "dev"})
        status, body = gateway.json("POST", REPORTS, body=GOOD, token=token)
        assert (status, body["code"], body["details"]) == (401, 16, [])
        with pytest.raises(grpc.RpcError) as refused:
            gateway.call(FILE, b"", token=token)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert gateway.upstream.calls == []

    def test_takes_those_of_every_issuer_and_of_each_its_own_keys(self, gateway: Gateway) -> None:
        claims = {"sub": "pa-1", "aud": "village-mesh", "exp": int(time.time()) + 600}

        def told(issuer: str) -> int:
            token = jwt.encode({**claims, "iss": issuer}, gateway.province, "ES256", headers={"kid": "p"})
            return gateway.json("POST", REPORTS, body=GOOD, token=token)[0]

        assert [told(PROVINCE), told(ISSUER)] == [200, 401]

    def test_refuses_an_unsigned_one(self, gateway: Gateway) -> None:
        claims = {"iss": ISSUER, "aud": "village-mesh", "sub": "x", "exp": int(time.time()) + 60}
        status, body = gateway.json("POST", REPORTS, body=GOOD, token=jwt.encode(claims, "", "none"))
        assert (status, body["code"]) == (401, 16)

    def test_refuses_rubbish(self, gateway: Gateway) -> None:
        status, body = gateway.json("POST", REPORTS, body=GOOD, token="a.b.c")
        assert (status, body["code"]) == (401, 16)

    def test_allows_clocks_half_a_minute_apart(self, gateway: Gateway) -> None:
        assert gateway.json("POST", REPORTS, body=GOOD, token=gateway.token(lasts=-15))[0] == 200

    def test_takes_none_from_the_url(self, gateway: Gateway) -> None:
        path = f"{REPORTS}?access_token={gateway.token(lasts=-600)}"
        status, body = gateway.json("POST", path, body=GOOD, token=None)
        assert (status, body["code"]) == (400, 3)


class TestHeaders:
    def test_strips_what_only_the_gateway_may_say(self, gateway: Gateway) -> None:
        claimed = {
            "x-village-caller": "evil",
            "x-jwt-sub": "evil",
            "x-envoy-original-path": "evil",
            "x-envoy-upstream-rq-timeout-ms": "1",
        }
        assert gateway.json("POST", REPORTS, body=GOOD, headers=claimed)[0] == 200
        gateway.call(FILE, b"", metadata=tuple(claimed.items()))
        assert len(gateway.upstream.calls) == 2
        for _, metadata, _ in gateway.upstream.calls:
            assert "evil" not in metadata.values()

    def test_refuses_underscores(self, gateway: Gateway) -> None:
        assert gateway.ask("POST", REPORTS, body=GOOD, headers={"x_village_caller": "evil"})[0] == 400
        assert gateway.upstream.calls == []


class TestOutage:
    def test_says_unavailable_while_the_service_is_away(self, gateway: Gateway) -> None:
        gateway.upstream.stop()
        status, body = gateway.json("POST", REPORTS, body=GOOD)
        assert (status, body["code"], body["details"]) == (503, 14, [])
        assert ".sock" not in body["message"]
        with pytest.raises(grpc.RpcError) as refused:
            gateway.call(FILE, b"")
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        gateway.upstream.start()
        until(lambda: gateway.json("POST", REPORTS, body=GOOD)[0] == 200)

    def test_never_says_unavailable_of_what_may_have_been_done(self, gateway: Gateway) -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            gateway.upstream.stop()
            listening.bind(os.path.relpath(gateway.upstream.path))
            listening.listen()
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                calling = pool.submit(gateway.json, "POST", REPORTS, body=GOOD)
                _read_request_and_hang_up(listening)
                assert (calling.result()[0], calling.result()[1]["code"]) == (500, 2)
                second = pool.submit(gateway.call, FILE, b"")
                _read_request_and_hang_up(listening)
                refused = second.exception()
        assert isinstance(refused, grpc.RpcError)
        assert refused.code() == grpc.StatusCode.UNKNOWN  # type: ignore[attr-defined]


class TestDeadline:
    def test_says_that_it_may_have_been_done(self, gateway: Gateway) -> None:
        gateway.upstream.stop()
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(os.path.relpath(gateway.upstream.path))
            silent.listen()
            try:
                gateway.reload(dataclasses.replace(gateway.spec, deadline="0.2s"))
                status, body = gateway.json("POST", REPORTS, body=GOOD)
                with pytest.raises(grpc.RpcError) as refused:
                    gateway.call(FILE, b"")
            finally:
                gateway.reload(gateway.spec)
        assert (status, body["code"], body["details"]) == (504, 4, [])
        assert "request_id" in body["message"]
        assert refused.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        gateway.upstream.start()
        until(lambda: gateway.json("POST", REPORTS, body=GOOD)[0] == 200)


def _read_request_and_hang_up(listening: socket.socket) -> None:
    """Plays a service that dies with the request in hand: takes it in whole, answers settings only."""
    connection, _ = listening.accept()
    with connection:
        connection.settimeout(10)
        connection.sendall(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        received = b""
        while (
            FILE.rpartition("/")[0].encode() not in received and b"\x00\x01\x00\x00\x00\x01" not in received
        ):
            part = connection.recv(65536)
            assert part, "Envoy hung up first"
            received += part


def _holds_request(received: bytes) -> bool:
    """Whether a DATA frame (type 0) that ends stream 1 is among the HTTP/2 frames after the preface."""
    rest = received.removeprefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    while len(rest) >= 9:
        length, kind, flags = int.from_bytes(rest[:3]), rest[3], rest[4]
        if kind == 0 and flags & 1 and len(rest) >= 9 + length:
            return True
        rest = rest[9 + length :]
    return False


class TestReload:
    def test_takes_up_a_changed_spec(self, gateway: Gateway) -> None:
        other = "https://other.example"
        changed = dataclasses.replace(gateway.spec, cors_origins=(other,))
        sent = {"origin": other}

        def allowed() -> bool:
            answer = gateway.ask("POST", REPORTS, body=GOOD, headers=sent)
            assert answer[0] == 200
            return answer[1].get("access-control-allow-origin") == other

        assert not allowed()
        try:
            envoy.write(changed, gateway.folder)
            until(allowed)
        finally:
            envoy.write(gateway.spec, gateway.folder)
            until(lambda: not allowed())

    def test_takes_up_new_keys(self, gateway: Gateway) -> None:
        renewed = ed25519.Ed25519PrivateKey.generate()
        keys = _jwks(gateway.key)["keys"] + [{**_jwks(renewed)["keys"][0], "kid": "next"}]
        claims = {"iss": ISSUER, "sub": "x", "aud": "village-mesh", "exp": int(time.time()) + 600}
        token = jwt.encode(claims, renewed, algorithm="EdDSA", headers={"kid": "next"})
        assert gateway.json("POST", REPORTS, body=GOOD, token=token)[0] == 401
        trusted = gateway.folder / "trust/jwks.json"
        before = trusted.read_text()
        try:
            trusted.write_text(json.dumps({"keys": keys}))
            envoy.write(gateway.spec, gateway.folder)
            until(lambda: gateway.json("POST", REPORTS, body=GOOD, token=token)[0] == 200)
        finally:
            trusted.write_text(before)
            envoy.write(gateway.spec, gateway.folder)

    def test_keeps_serving_when_the_new_one_is_broken(self, gateway: Gateway) -> None:
        broken = gateway.folder / "envoy/dyn/.broken"
        broken.write_text('{"resources": [')
        broken.replace(gateway.folder / "envoy/dyn/lds.json")
        try:
            until(lambda: "lds.update_failure: 0" not in gateway.admin("/stats?filter=lds.update_failure"))
            assert gateway.json("POST", REPORTS, body=GOOD)[0] == 200
        finally:
            envoy.write(gateway.spec, gateway.folder)

    def test_was_never_refused_by_envoy(self, gateway: Gateway) -> None:
        stats = gateway.admin("/stats?filter=update_rejected")
        assert "listener_manager.lds.update_rejected: 0" in stats
        assert "cluster_manager.cds.update_rejected: 0" in stats


class TestAdmin:
    def test_is_for_the_nodes_own_user_only(self, gateway: Gateway) -> None:
        assert (gateway.folder / gateway.spec.admin_socket).stat().st_mode & 0o777 == 0o600


class TestAccessLog:
    def test_tells_the_call_and_no_query(self, gateway: Gateway) -> None:
        gateway.json("GET", f"{REPORTS}?filter=secret-{id(gateway)}")
        log = gateway.folder / gateway.spec.access_log

        def line() -> dict[str, Any] | None:
            lines = [json.loads(text) for text in log.read_text().splitlines() if text.endswith("}")]
            return next(
                (x for x in reversed(lines) if x["path"] == REPORTS and x["http_method"] == "GET"), None
            )

        until(line)
        assert "secret-" not in log.read_text()
        assert "127.0.0.1" not in log.read_text()


class TestRateLimit:
    def test_is_answered_in_json_and_in_grpc(self, gateway: Gateway) -> None:
        limited = dataclasses.replace(gateway.spec, calls_per_second=1)
        try:
            gateway.reload(limited)
            status, body = until(lambda: (a := gateway.json("POST", REPORTS, body=GOOD))[0] == 429 and a)
            assert (status, body["code"], body["details"]) == (429, 8, [])

            def code() -> grpc.StatusCode | None:
                try:
                    gateway.call(FILE, b"")
                except grpc.RpcError as error:
                    return error.code()
                return None

            assert until(code) == grpc.StatusCode.RESOURCE_EXHAUSTED
        finally:
            envoy.write(gateway.spec, gateway.folder)
            until(lambda: all(gateway.ask("POST", REPORTS, body=GOOD)[0] == 200 for _ in range(5)))
