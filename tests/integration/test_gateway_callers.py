"""Whom the gateway lets in, how much of him, and what it writes down of him."""

import concurrent.futures
import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Iterator
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
            {"nbf": int(time.time()) + 86_400},
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
            "x-village-node": "evil",
            "x-jwt-sub": "evil",
            "x-envoy-original-path": "evil",
            "x-envoy-upstream-rq-timeout-ms": "1",
        }
        assert gateway.json("POST", REPORTS, body=GOOD, headers=claimed)[0] == 200
        gateway.call(FILE, b"", metadata=tuple(claimed.items()))
        assert len(gateway.upstream.calls) == 2
        for _, metadata, _ in gateway.upstream.calls:
            assert "evil" not in metadata.values()

    def test_passes_on_what_a_caller_may_say(self, gateway: Gateway) -> None:
        said = {"x-village-acting-for": "officer-2", "x-village-read": "replica"}
        assert gateway.json("POST", REPORTS, body=GOOD, headers=said)[0] == 200
        gateway.call(FILE, b"", metadata=tuple(said.items()))
        assert len(gateway.upstream.calls) == 2
        for _, metadata, _ in gateway.upstream.calls:
            assert said.items() <= dict(metadata).items()

    def test_refuses_underscores(self, gateway: Gateway) -> None:
        assert gateway.ask("POST", REPORTS, body=GOOD, headers={"x_village_caller": "evil"})[0] == 400
        assert gateway.upstream.calls == []

    def test_of_names_that_grpc_does_not_know_are_left_out(self, gateway: Gateway) -> None:
        """HTTP allows them; the services' gRPC would answer INTERNAL."""
        sent = {"x~odd": "1", "'$%^|!#&*+`": "2", "x-fine.one": "3"}
        assert gateway.ask("POST", REPORTS, body=GOOD, headers=sent)[0] == 200
        _, reached, _ = gateway.upstream.calls[-1]
        assert "x-fine.one" in reached
        assert set(sent) & set(reached) == {"x-fine.one"}


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


class TestFairShare:
    """60 calls a second for all and 10 for one caller, while somebody tries more than 60."""

    @pytest.fixture
    def shared(self, gateway: Gateway) -> Iterator[Gateway]:
        gateway.reload(dataclasses.replace(gateway.spec, calls_per_second=60, calls_per_caller=10))
        yield gateway
        gateway.reload(gateway.spec)

    @staticmethod
    @contextlib.contextmanager
    def flood(gateway: Gateway, **how: Any) -> Iterator[list[tuple[int, dict[str, str], bytes]]]:
        """Somebody who calls without end; gives the answers so far, from the first refusal on."""
        answers: list[tuple[int, dict[str, str], bytes]] = []
        over = threading.Event()

        def call() -> None:
            while not over.wait(0.02):
                answers.append(gateway.ask("POST", REPORTS, body=GOOD, **how))

        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            calling = [pool.submit(call) for _ in range(3)]
            try:
                until(lambda: sum(status == 429 for status, _, _ in answers) > 60)
                yield answers
            finally:
                over.set()
            assert [c.result() for c in calling] == [None] * 3

    @staticmethod
    def statuses(gateway: Gateway, count: int = 8, **how: Any) -> list[int]:
        return [gateway.ask("POST", REPORTS, body=GOOD, **how)[0] for _ in range(count)]

    @staticmethod
    def refusal(gateway: Gateway, token: str | None) -> Any:
        try:
            gateway.call(FILE, b"", token=token)
        except grpc.RpcError as refused:
            return refused
        return None

    @pytest.mark.parametrize("busy", [{"token": "good"}, {"token": None}], ids=["with a token", "without"])
    def test_a_busy_caller_is_told_to_wait_and_others_are_served(
        self, shared: Gateway, busy: dict[str, Any]
    ) -> None:
        with self.flood(shared, **busy) as answers:
            assert self.statuses(shared, token=shared.token(sub="cz-2")) == [200] * 8
            refused = until(lambda: self.refusal(shared, busy["token"]))
        refusals = [answer for answer in answers if answer[0] == 429]
        assert {status for status, _, _ in answers} == {200, 429}
        for _, headers, body in refusals:
            assert (json.loads(body)["code"], headers["retry-after"]) == (8, "1")
        assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ("retry-after", "1") in [tuple(pair) for pair in refused.trailing_metadata()]

    def test_who_somebody_is_hangs_on_the_issuer_too(self, shared: Gateway) -> None:
        claims = {"iss": PROVINCE, "sub": "cz-1", "aud": "village-mesh", "exp": int(time.time()) + 600}
        namesake = jwt.encode(claims, shared.province, "ES256", headers={"kid": "p"})
        with self.flood(shared):
            assert self.statuses(shared, token=namesake) == [200] * 8
            assert self.statuses(shared, token=None) == [200] * 8

    def test_several_tokens_of_one_caller_are_one_caller(self, shared: Gateway) -> None:
        with self.flood(shared):
            assert 429 in self.statuses(shared, 20, token=shared.token(lasts=500))

    @pytest.mark.parametrize(
        "headers",
        [{"authorization": "Basic eDp5"}, {"authorization": "Bearer"}, {"x-forwarded-for": "203.0.113.9"}],
        ids=["another scheme", "an empty token", "a claimed address"],
    )
    def test_no_header_makes_another_caller_of_one_without_a_token(
        self, shared: Gateway, headers: dict[str, str]
    ) -> None:
        with self.flood(shared, token=None):
            assert 429 in self.statuses(shared, 20, token=None, headers=headers)


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
