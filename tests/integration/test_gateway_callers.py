"""Whom the gateway lets in, how much of him, and what it writes down of him."""

import dataclasses
import json
import time
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from gateway import envoy
from tests.gateway import FILE, GOOD, ISSUER, PROVINCE, REPORTS, Gateway
from tests.waiting import until


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
