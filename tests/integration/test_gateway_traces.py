"""Envoy's own spans: between the caller's and the service's, without anything of the caller."""

from collections.abc import Iterator

import grpc
import pytest

from mesh import spans, telemetry
from tests import collector as collectors
from tests.gateway import FILE, GOOD, REPORTS, Gateway, started
from tests.waiting import until

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{CALLER}-01"
PHONE = "13877417741"


@pytest.fixture(scope="module")
def collector() -> Iterator[collectors.Collector]:
    with collectors.listening() as found:
        yield found


@pytest.fixture(scope="module")
def traced(collector: collectors.Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with started(tmp_path_factory.mktemp("traced"), trace_ratio=0.0) as gateway:
        gateway.upstream.stop()
        gateway.upstream.handlers.append(spans.Handler(collector.address))
        gateway.upstream.start()
        provider = telemetry.export(collector.address, 0.0, ["habitat"])

        def serve(request: bytes, context: grpc.ServicerContext) -> bytes:
            """A span as the services make it, and a refusal that quotes its caller."""
            span = telemetry.Span("FileReport", dict(context.invocation_metadata())["traceparent"])
            span.end("OK")
            if not request:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"what is {PHONE}?")
            return b""

        gateway.upstream.answers[FILE] = serve
        yield gateway
        telemetry._tracers.clear()
        provider.shutdown()


def post(gateway: Gateway, headers: dict[str, str], query: str = "") -> int:
    return gateway.json("POST", REPORTS + query, body=GOOD, headers=headers)[0]


def test_stand_between_the_callers_span_and_the_services(
    traced: Gateway, collector: collectors.Collector
) -> None:
    assert post(traced, {"traceparent": SAMPLED}) == 200
    until(lambda: {s.name for s in collector.spans} >= {"gateway", "FileReport"})
    (ours,) = [s for s in collector.spans if s.name == "gateway" and s.parent_span_id.hex() == CALLER]
    (services,) = [s for s in collector.spans if s.parent_span_id == ours.span_id]
    assert services.name == "FileReport"
    assert {ours.trace_id.hex(), services.trace_id.hex()} == {TRACE}
    said = {a.key: a.value.string_value for a in ours.attributes}
    assert (said["http.url"], said["http.status_code"], said["upstream_cluster"]) == (
        REPORTS,
        "200",
        "habitat",
    )


def test_hold_nothing_of_who_calls(traced: Gateway, collector: collectors.Collector) -> None:
    sent = {
        **{"traceparent": SAMPLED, "tracestate": "a=tracestate-张三", "user-agent": f"agent-{PHONE}"},
        **{"x-request-id": f"request-{PHONE}", "x-client-trace-id": f"client-{PHONE}"},
        **{"x-forwarded-for": "203.0.113.77", "host": f"host-{PHONE}", "referer": f"http://{PHONE}/"},
    }
    sent = {name: value.encode().decode("latin-1") for name, value in sent.items()}
    before = len([s for s in collector.spans if s.name == "gateway"])
    assert post(traced, sent, f"?requestId={PHONE}") == 200
    assert traced.ask("GET", f"{REPORTS}?filter=contact%3D{PHONE}", headers=sent)[0] == 501
    assert traced.ask("GET", f"{REPORTS}?{PHONE}=1", headers=sent)[0] == 400
    with pytest.raises(grpc.RpcError):
        traced.call(FILE, b"", metadata=[("traceparent", SAMPLED), ("x-client-trace-id", PHONE)])
    until(lambda: len([s for s in collector.spans if s.name == "gateway"]) >= before + 4)
    for planted in (PHONE, "张三", "127.0.0.1", "203.0.113", "agent-", "grpc-python", "cz-1", "filter"):
        assert planted.encode() not in collector.bytes, planted


def test_are_sent_of_sampled_traces_only(traced: Gateway, collector: collectors.Collector) -> None:
    quiet = "1" * 32
    assert post(traced, {"traceparent": f"00-{quiet}-{CALLER}-00"}) == 200
    assert post(traced, {}) == 200
    seen = traced.upstream.calls[-2:]
    assert [m["traceparent"][-3:] for _, m, _ in seen] == ["-00", "-00"]
    assert seen[0][1]["traceparent"].split("-")[1] == quiet
    last = "2" * 32
    assert post(traced, {"traceparent": f"00-{last}-{CALLER}-01"}) == 200
    until(lambda: any(s.trace_id.hex() == last for s in collector.spans))
    assert {s.trace_id.hex() for s in collector.spans} <= {TRACE, last}
