"""NATS: the connection, a domain's stream, atomic batches, and reading events. Separate, so that one
module knows the broker and its traps."""

import asyncio
import contextlib
import datetime
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import nats
import nats.errors
import tenacity
from nats.aio.client import Client
from nats.js import api
from nats.js import errors as js_errors

from mesh import errors, events

DUPLICATES_S = 600
KEPT_S = 30 * 86_400
DUPLICATE_IN_BATCH = 10201
TIMEOUT_S = 10.0

Message = tuple[str, dict[str, str], bytes]
"""Subject, headers and payload."""


class Rejected(Exception):  # noqa: N818
    """The broker answered that it did not store. Holds its answer."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer.get("description", str(answer)))
        self.code = answer.get("err_code", 0)


async def connect(url: str) -> Client:
    """A connection that comes back by itself for ever; waits for the broker to be there."""
    wait = tenacity.wait_exponential_jitter(multiplier=0.1, max=5)
    async for attempt in tenacity.AsyncRetrying(
        wait=wait, retry=tenacity.retry_if_exception_type((OSError, nats.errors.Error, TimeoutError))
    ):
        with attempt:
            return await nats.connect(
                url,
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.25,
                connect_timeout=2,
                ping_interval=20,
                error_cb=_quiet,
            )
    raise AssertionError


async def _quiet(_fault: Exception) -> None:
    """Lost connections are seen where they matter: in the publish that fails."""


async def reload(url: str, *, hang_up: bool = False) -> None:
    """Makes the broker read its configuration again. `hang_up`: and end every line of another node, because
    by itself it asks only new ones whether it knows them. `url`: with the credentials of its system account.
    """
    client = await connect(url)
    try:
        server = client._server_info["server_id"]
        await _system(client, f"{server}.RELOAD", {})
        lines = (await _system(client, f"{server}.LEAFZ", {}))["data"].get("leafs") if hang_up else None
        for line in lines or ():
            with contextlib.suppress(Rejected):  # it has ended meanwhile
                await _system(client, f"{server}.KICK", {"cid": line["id"]})
    finally:
        await client.close()


async def _system(client: Client, what: str, request: dict[str, Any]) -> dict[str, Any]:
    raw = json.dumps(request).encode() if request else b""
    answer = await client.request(f"$SYS.REQ.SERVER.{what}", raw, timeout=TIMEOUT_S)
    found = dict(json.loads(answer.data or b"{}"))
    if "error" in found:
        raise Rejected(found["error"])
    return found


async def ensure_stream(client: Client, domain: str) -> bool:
    """Makes the domain's stream, or brings its settings up to date; whether it had to be made."""
    config = api.StreamConfig(
        name=events.stream(domain),
        subjects=[f"village.*.*.*.{domain}.>"],
        retention=api.RetentionPolicy.LIMITS,
        discard=api.DiscardPolicy.OLD,
        storage=api.StorageType.FILE,
        max_age=KEPT_S,
        duplicate_window=DUPLICATES_S,
        deny_delete=True,
        allow_atomic=True,
    )
    js = client.jetstream(timeout=TIMEOUT_S)
    try:
        await js.update_stream(config)
    except js_errors.NotFoundError:
        await js.add_stream(config)
        return True
    return False


async def publish(client: Client, messages: Sequence[Message]) -> None:
    """Stores up to 1,000 messages as one atomic batch (ADR-50). When one of them is there already, which
    the broker refuses for the whole batch, each is sent by itself. Rejected, or an error of the client,
    when the broker did not confirm: then it is not known what it holds."""
    if len(messages) > 1:
        try:
            await _batch(client, messages)
            return
        except Rejected as fault:
            if fault.code != DUPLICATE_IN_BATCH:
                raise
    for subject, headers, payload in messages:
        _stored(await client.request(subject, payload, headers=headers, timeout=TIMEOUT_S))


async def _batch(client: Client, messages: Sequence[Message]) -> None:
    batch, last = uuid.uuid4().hex, len(messages)
    for n, (subject, headers, payload) in enumerate(messages, 1):
        marked = {**headers, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(n)}
        if n == last:
            marked["Nats-Batch-Commit"] = "1"
            _stored(await client.request(subject, payload, headers=marked, timeout=TIMEOUT_S))
        elif n == 1:
            answer = await client.request(subject, payload, headers=marked, timeout=TIMEOUT_S)
            if answer.data:
                _stored(answer)
        else:
            await client.publish(subject, payload, headers=marked)


def _stored(answer: Any) -> None:
    found = json.loads(answer.data or b"{}")
    if "error" in found or "stream" not in found:
        raise Rejected(found.get("error", {}))


async def consumer(client: Client, subject: str, name: str) -> Any:
    """A durable consumer of the stream of the subject's domain, to fetch from; made when it is not there."""
    config = api.ConsumerConfig(
        ack_policy=api.AckPolicy.EXPLICIT, ack_wait=60, max_ack_pending=1000, filter_subject=subject
    )
    js = client.jetstream(timeout=TIMEOUT_S)
    stream = events.stream(subject.split(".")[4])
    return await js.pull_subscribe(subject, durable=name, stream=stream, config=config)


async def read(
    url: str, subject: str, start: int | datetime.datetime | None
) -> AsyncIterator[dict[str, Any]]:
    """Events on a subject as JSON objects, for ever: new ones, or with `start` all that are kept from
    that sequence of the stream or that moment on."""
    client = await connect(url)
    js = client.jetstream(timeout=TIMEOUT_S)
    if start is None:
        subscription: Any = await client.subscribe(subject)
        await client.flush()
        async for message in subscription.messages:
            yield events.as_json(message.subject, dict(message.headers or {}), message.data)
    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=1000)
    config = (
        api.ConsumerConfig(deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=start)
        if isinstance(start, int)
        else api.ConsumerConfig(deliver_policy=api.DeliverPolicy.BY_START_TIME, opt_start_time=start)
    )
    names = [events.stream(subject.split(".")[4])] if _one_domain(subject) else await _streams(client)
    for name in names:
        try:
            await js.subscribe(subject, stream=name, ordered_consumer=True, config=config, cb=queue.put)
        except (TimeoutError, nats.errors.Error, js_errors.Error) as fault:
            raise errors.NotFound(name=f"stream {name}") from fault
    while True:
        message = await queue.get()
        yield events.as_json(message.subject, dict(message.headers or {}), message.data)


def _one_domain(subject: str) -> bool:
    parts = subject.split(".")
    return len(parts) > 4 and parts[4] not in ("*", ">")


async def _streams(client: Client) -> list[str]:
    answer = await client.request("$JS.API.STREAM.NAMES", b"{}", timeout=TIMEOUT_S)
    return [n for n in json.loads(answer.data).get("streams") or [] if n.startswith("EV_")]
