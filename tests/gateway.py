"""A gateway with a real Envoy, before a small gRPC server that records what reaches it."""

import base64
import concurrent.futures
import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from gateway import envoy
from tests.waiting import free_ports, until
from village.habitat.v1 import report_pb2

ROOT = pathlib.Path(__file__).resolve().parents[1]
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
        self.handlers: list[grpc.GenericRpcHandler] = [self]

    def start(self) -> None:
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        self.server.add_generic_rpc_handlers(self.handlers)
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


def jwks(key: ed25519.Ed25519PrivateKey) -> dict[str, Any]:
    x = base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).rstrip(b"=").decode()
    return {"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "dev", "x": x}]}


def ec_jwks(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    numbers = key.public_key().public_numbers()
    x, y = (base64.urlsafe_b64encode(n.to_bytes(32)).rstrip(b"=").decode() for n in (numbers.x, numbers.y))
    return {"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "p", "x": x, "y": y}]}


@contextlib.contextmanager
def started(folder: pathlib.Path, **changed: Any) -> Iterator[Gateway]:
    """An Envoy with an upstream, both in `folder`; `changed` are fields of the spec."""
    for name in ("run", "logs", "trust"):
        (folder / name).mkdir()
    key = ed25519.Ed25519PrivateKey.generate()
    (folder / "trust/jwks.json").write_text(json.dumps(jwks(key)))
    province = ec.generate_private_key(ec.SECP256R1())
    (folder / "trust/province.json").write_text(json.dumps(ec_jwks(province)))
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
        **changed,
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
