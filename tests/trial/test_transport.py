"""The service behind grpcio: as many calls as it can take and no more, streams apart from the rest, and an
ordered stop."""

import concurrent.futures
import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cli import sample
from gateway import pulling
from mesh import config, process
from tests import county as counties
from tests.trial import domain
from tests.trial.domain import PARENT
from village.type.v1 import attachment_pb2

THREADS = 2
SERVICE = "/village.trial.v1.TrialService"


class Served:
    """A process of the trial domain on a socket."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.private = counties.secrets(folder)
        settings = config.load(
            {"VILLAGEMESH_REGION": "360423", "VILLAGEMESH_LISTEN": f"unix:{folder}/s",
             "VILLAGEMESH_DATABASE_URL": f"sqlite:///{folder}/{{domain}}.db",
             "VILLAGEMESH_NATS_URL": "nats://127.0.0.1:1", "VILLAGEMESH_THREADS": str(THREADS),
             **counties.directory.files(folder)}
        )  # fmt: skip
        self.process = process.Process([domain.service()], settings, pulling.Puller)
        self.process.start()
        self.channel = grpc.insecure_channel(f"unix:{folder}/s")
        token = counties.mint(self.private, counties.resources.utcnow(), sub="officer-1")
        self.metadata = [("authorization", f"Bearer {token}")]

    def call(self, method: str, request: Any, timeout: float | None = 10) -> bytes:
        ask = self.channel.unary_unary(f"{SERVICE}/{method}")
        return bytes(ask(request.SerializeToString(), metadata=self.metadata, timeout=timeout))


@pytest.fixture
def served(tmp_path: pathlib.Path) -> Iterator[Served]:
    found = Served(tmp_path)
    yield found
    found.channel.close()
    found.process.stop(patience=2)


def listing() -> Any:
    return domain.messages().ListPeopleRequest(parent=PARENT)


def slow(served: Served, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Every call waits until the event is set."""
    go, real = threading.Event(), served.process.chain.answer

    def answer(incoming: Any) -> Any:
        if incoming.path.startswith(SERVICE):
            assert go.wait(20)
        return real(incoming)

    monkeypatch.setattr(served.process.chain, "answer", answer)
    return go


def test_refuses_more_than_it_can_take_and_says_when_to_come_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = slow(served, monkeypatch)
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        asked = [pool.submit(served.call, "ListPeople", listing()) for _ in range(40)]
        deadline = time.monotonic() + 10
        while sum(f.done() for f in asked) < 40 - THREADS * 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        go.set()
        faults = [f.exception() for f in asked]
    refused: list[Any] = [fault for fault in faults if fault is not None]
    assert len(faults) - len(refused) == THREADS * 5
    assert {fault.code() for fault in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    status = rpc_status.from_call(refused[0])
    assert status is not None
    details = {d.type_url.rpartition(".")[2]: d.value for d in status.details}
    assert error_details_pb2.RetryInfo.FromString(details["RetryInfo"]).retry_delay.ToMilliseconds() > 0
    assert error_details_pb2.ErrorInfo.FromString(details["ErrorInfo"]).reason == "OVERLOADED"
    assert served.call("ListPeople", listing()) is not None, "and takes calls again"


def test_drops_a_call_whose_caller_has_gone_while_it_waited(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = slow(served, monkeypatch)
    pb = domain.messages()
    put = pb.PutStockRequest(parent=PARENT, stock={"quantity": 1}, stock_id="late")
    with concurrent.futures.ThreadPoolExecutor(THREADS + 1) as pool:
        holding = [pool.submit(served.call, "ListPeople", listing()) for _ in range(THREADS)]
        time.sleep(0.3)
        with pytest.raises(grpc.RpcError) as caught:
            served.call("PutStock", put, timeout=0.3)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        go.set()
        for each in holding:
            each.result(10)
    time.sleep(0.3)
    again = pb.PutStockRequest(parent=PARENT, stock={"quantity": 1}, stock_id="late")
    assert pb.Stock.FromString(served.call("PutStock", again)).name.endswith("/late")


def test_slow_streams_do_not_hold_up_the_rest(served: Served) -> None:
    go = threading.Event()

    def parts() -> Iterator[bytes]:
        first = attachment_pb2.UploadAttachmentRequest(parent=PARENT, content={"data": sample.PHOTO[:40]})
        yield first.SerializeToString()
        assert go.wait(20)
        rest = attachment_pb2.UploadAttachmentRequest(content={"data": sample.PHOTO[40:]})
        yield rest.SerializeToString()

    keep = served.channel.stream_unary("/village.trial.v1.AttachmentService/UploadAttachment")
    with concurrent.futures.ThreadPoolExecutor(THREADS * 2) as pool:
        kept = [
            pool.submit(keep, parts(), metadata=served.metadata, timeout=20) for _ in range(THREADS * 2)
        ]  # fmt: skip
        time.sleep(0.3)
        for _ in range(5):
            assert served.call("ListPeople", listing(), timeout=2) is not None
        go.set()
        found = {attachment_pb2.Attachment.FromString(k.result(20)).sha256 for k in kept}
    assert found == {counties.PHOTO["sha256"]}


def test_stops_when_what_it_took_is_done(served: Served) -> None:
    """SIGTERM's way: no accepted call is lost, and what came late is told so."""
    pb = domain.messages()
    done: list[int] = []
    late: dict[int, Any] = {}

    def put(n: int) -> None:
        request = pb.PutStockRequest(parent=PARENT, stock={"quantity": 1}, stock_id=f"s{n}")
        try:
            served.call("PutStock", request)
            done.append(n)
        except grpc.RpcError as fault:
            late[n] = fault.code()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(put, n) for n in range(200)]
        time.sleep(0.2)
        served.process.stop(patience=5)
        concurrent.futures.wait(asked)
    assert done
    # a call that arrives while the door closes is cut off by grpcio: its caller knows that he does not know
    cut = {n for n, code in late.items() if code == grpc.StatusCode.CANCELLED}
    told = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert {late[n] for n in late.keys() - cut} <= told
    store = served.process.hosted[0].store
    assert store is not None
    import sqlalchemy as sa

    stocks = store.metadata.tables["stocks"]
    kept = {name.rpartition("/")[2] for (name,) in store.database.select(sa.select(stocks.c.name))}
    assert {f"s{n}" for n in done} <= kept
    assert kept <= {f"s{n}" for n in {*done, *cut}}
    store.database.close()
