"""The gateway while a service is away or slow, and while its configuration changes."""

import concurrent.futures
import dataclasses
import json
import os
import socket
import time

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from gateway import envoy
from tests.gateway import FILE, GOOD, ISSUER, REPORTS, Gateway, jwks
from tests.waiting import until


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
        keys = jwks(gateway.key)["keys"] + [{**jwks(renewed)["keys"][0], "kid": "next"}]
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
