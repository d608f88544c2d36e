"""The chain behind grpcio: bytes in, bytes out, streams, and a bound on how many calls are in hand. Separate
from the chain, which knows no transport."""

import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from grpc_status import rpc_status

from mesh import contract, errors, rpc, statuses

QUEUED = 4
"""How many calls may wait for each one that is worked on."""


class Pool(concurrent.futures.ThreadPoolExecutor):
    """Threads, and how many calls they have in hand: worked on and waiting."""

    def __init__(self, threads: int, name: str) -> None:
        super().__init__(threads, thread_name_prefix=name)
        self.threads, self.in_hand = threads, 0
        self._count = threading.Lock()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        with self._count:
            self.in_hand += 1
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(self._done)
        return future

    def _done(self, _future: Any) -> None:
        with self._count:
            self.in_hand -= 1

    @property
    def full(self) -> bool:
        return self.in_hand >= self.threads * (1 + QUEUED)


class GrpcHandler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The adapter. Calls that stream have threads of their own, because a slow client holds one."""

    def __init__(self, chain: rpc.Chain, pool: Pool) -> None:
        self._chain, self._pool = chain, pool
        self._streams, self._door = Pool(pool.threads, "stream"), Pool(1, "door")
        self._handlers = {
            path: (self._handler(endpoint.method), self._pool_of(endpoint.method))
            for path, endpoint in chain.endpoints.items()
        }
        self._busy = grpc.unary_unary_rpc_method_handler(own_pool(self._refuse, self._door))

    def service(self, handler_call_details: Any) -> Any:
        handler, pool = self._handlers.get(handler_call_details.method, (None, None))
        if pool is not None and pool.full:
            return self._busy
        return handler

    def _pool_of(self, method: contract.Method) -> Pool:
        return self._streams if method.streams else self._pool

    def _handler(self, method: contract.Method) -> Any:
        def unary(raw: Any, context: Any) -> Any:
            try:
                return self._answer(method, raw, context)
            except errors.Refusal as refusal:
                answered = refusal
            return _abort(context, answered)

        def down(raw: Any, context: Any) -> Iterator[bytes]:
            try:
                yield from self._answer(method, raw, context)
            except errors.Refusal as refusal:
                answered = refusal
            else:
                return
            _abort(context, answered)

        if method.streams_out:
            return grpc.unary_stream_rpc_method_handler(own_pool(down, self._streams))
        if method.streams_in:
            return grpc.stream_unary_rpc_method_handler(own_pool(unary, self._streams))
        return grpc.unary_unary_rpc_method_handler(unary)

    def _answer(self, method: contract.Method, raw: Any, context: Any) -> Any:
        headers = {k: v for k, v in context.invocation_metadata() if isinstance(v, str)}
        incoming = rpc.Incoming(method.path, raw, headers, context.time_remaining())
        try:
            return self._chain.answer(incoming)
        finally:
            if incoming.told:  # refused or not
                context.send_initial_metadata(tuple(incoming.told.items()))

    @staticmethod
    def _refuse(_raw: bytes, context: Any) -> bytes:
        return _abort(context, errors.Overloaded(what="the service"))


def own_pool(behave: Callable[..., Any], pool: Pool) -> Callable[..., Any]:
    """The behaviour, run in `pool` instead of the server's."""

    def marked(raw: Any, context: Any) -> Any:
        return behave(raw, context)

    marked.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return marked


def _abort(context: Any, refusal: errors.Refusal) -> Any:
    context.abort_with_status(rpc_status.to_status(statuses.status(refusal)))
