"""Traces: from a caller through the call, its SQL and its event to who reacts, sent by OTLP; nothing of
persons in them."""

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from mesh import reactions, telemetry
from tests import collector as collectors
from tests.broker import Broker
from tests.collector import Collector
from tests.county import County
from tests.loop import rows
from tests.trial import domain
from tests.trial.domain import PARENT
from tests.trial.test_reactions import Running, noted, put
from tests.waiting import until

SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE = bytes.fromhex(SAMPLED.split("-")[1])


@pytest.fixture
def collector() -> Iterator[tuple[Collector, Any]]:
    with collectors.listening() as found:
        provider = telemetry.export(found.address, 0.0, ["trial"])
        yield found, provider
        telemetry._tracers.clear()
        provider.shutdown()


def take(trial: County, name: str, traceparent: str) -> None:
    request = domain.messages().TakeStockRequest(name=name, quantity=1)
    headers = {"authorization": f"Bearer {trial.token('county')}", "traceparent": traceparent}
    trial.raw("TakeStock", request.SerializeToString(), headers)


def test_goes_from_the_caller_to_who_reacts(
    trial: County, collector: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reactions, "FETCH_S", 0.3)
    (tmp_path / "nats").mkdir()
    broker, (kept, provider) = Broker(tmp_path / "nats"), collector
    running = Running(trial, broker.url)
    try:
        take(trial, put(trial, "seed", "留言 13877417741"), SAMPLED)
        until(lambda: noted(trial, "seed") == 1, seconds=15)
        provider.force_flush()
        until(lambda: {"count_taken", "publish"} <= {s.name for s in kept.spans}, seconds=10)
    finally:
        running.kill()
        broker.kill()
    assert {s.trace_id for s in kept.spans} == {TRACE}, "what nobody sampled is not sent"
    by_name = {s.name: s for s in kept.spans}
    assert {"TakeStock", "read", "commit", "publish", "count_taken"} <= set(by_name)
    call = by_name["TakeStock"]
    assert call.parent_span_id == bytes.fromhex(SAMPLED.split("-")[2])
    children = {s.name for s in kept.spans if s.parent_span_id == call.span_id}
    assert {"read", "commit", "publish", "count_taken"} <= children
    assert {a.key: a.value.string_value for a in call.attributes} == {"village.code": "OK"}
    whole = b"".join(s.SerializeToString() for s in kept.spans)
    for planted in ("13877417741", "officer-1", "留言"):
        assert planted.encode() not in whole


def test_links_to_what_happened_long_ago(trial: County, collector: Any) -> None:
    kept, provider = collector
    take(trial, put(trial, "seed"), SAMPLED)
    ((payload, kind),) = rows(trial, "SELECT payload, type FROM mesh_outbox WHERE type LIKE '%StockTaken'")
    (reaction,) = trial.store.reactions.values()
    headers = {"ce-id": "x", "ce-type": kind, "ce-time": "2026-03-01T00:00:00Z", "traceparent": SAMPLED}
    event = reactions.Event("s", headers, bytes(payload))
    reactions.react(trial.store, reaction, [event], trial.now, "360423")
    provider.force_flush()
    assert noted(trial, "seed") == 1
    (span,) = [s for s in kept.spans if s.name == "count_taken"]
    assert span.trace_id != TRACE
    assert [link.trace_id for link in span.links] == [TRACE]


def test_refusals_and_faults_are_told(trial: County, collector: Any) -> None:
    kept, provider = collector
    with pytest.raises(Exception, match="there is no"):
        take(trial, f"{PARENT}/stocks/none", SAMPLED)
    provider.force_flush()
    (span,) = [s for s in kept.spans if s.name == "TakeStock"]
    assert span.attributes[0].value.string_value == "NOT_FOUND"
