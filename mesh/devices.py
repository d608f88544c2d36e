"""What devices publish by MQTT (nats-server's own): kept by the broker from its acknowledgement on until it
was taken here. Separate from `bus`, whose streams hold events."""

import asyncio
import contextlib
import dataclasses
import logging
import urllib.parse
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import nats.errors
from nats.js import api
from nats.js import errors as js_errors

from mesh import bus, errors

STREAM = "$MQTT_msgs"
BATCH, WAIT_S, PAUSE_S, AGAIN_S = 500, 1.0, 2.0, 15
"""AGAIN_S: after how long comes again what a process had that ended."""
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Message:
    """A message of a device. `topic`: what follows the root, as in `("360423", "WQ0001")`."""

    topic: tuple[str, ...]
    payload: bytes


Take = Callable[[Sequence[Message]], Sequence[bytes]]
"""Takes messages for good and says to each what its device is answered; empty: nothing. A refusal that
passes, as of a database that is away, it raises: they come again."""


async def run(url: str, broker: str, root: str, take: Take) -> None:
    """Takes for ever what devices publish below the topic `root`. `broker`: where MQTT is served, HOST:PORT.
    Only a consumer that is there makes the broker keep a message before it acknowledges it."""
    while True:
        client = await bus.connect(url)
        try:
            js = client.jetstream(timeout=bus.TIMEOUT_S)
            await _prepare(js, url, broker, root)
            subscription = await js.pull_subscribe_bind(root, STREAM)
            while True:
                with contextlib.suppress(TimeoutError, nats.errors.TimeoutError):
                    await _round(client, await subscription.fetch(BATCH, timeout=WAIT_S), root, take)
        except (errors.Unavailable, errors.DeadlineExceeded, OSError, nats.errors.Error) as fault:
            log.warning("what devices send waits", extra={"about": {"root": root, "why": repr(fault)}})
            await asyncio.sleep(PAUSE_S)
        finally:
            await client.close()


async def _round(client: Any, found: Sequence[Any], root: str, take: Take) -> None:
    begins = f"$MQTT.msgs.{root}."
    given = [Message(tuple(m.subject.removeprefix(begins).split(".")), m.data) for m in found]
    answers = await asyncio.to_thread(take, given)
    for message, one, answer in zip(found, given, answers, strict=True):
        await message.ack()
        if answer:
            await client.publish(".".join((root, *one.topic, "answer")), answer)
    await client.flush()


async def _prepare(js: Any, url: str, broker: str, root: str) -> None:
    """Makes the consumer. The broker's own stream is there from the first session on: this may be it."""
    config = api.ConsumerConfig(
        durable_name=root, ack_policy=api.AckPolicy.EXPLICIT, ack_wait=AGAIN_S, max_ack_pending=10_000,
        filter_subject=f"$MQTT.msgs.{root}.>",
    )  # fmt: skip
    try:
        await js.add_consumer(STREAM, config)
    except js_errors.NotFoundError:
        await _session(url, broker)
        await js.add_consumer(STREAM, config)


async def _session(url: str, broker: str) -> None:
    """Opens a session of MQTT 3.1.1 and ends it: CONNECT with a clean session, DISCONNECT."""
    known = urllib.parse.urlsplit(url)
    parts = [b"village-mesh", (known.username or "").encode(), (known.password or "").encode()]
    content = b"\x00\x04MQTT\x04\xc2\x00\x0a" + b"".join(len(p).to_bytes(2, "big") + p for p in parts)
    host, _, port = broker.rpartition(":")
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), bus.TIMEOUT_S)
    try:
        writer.write(b"\x10" + bytes([len(content)]) + content)
        answer = await asyncio.wait_for(reader.readexactly(4), bus.TIMEOUT_S)
        if answer[3]:
            raise errors.Unavailable(what="the broker's MQTT", delay=PAUSE_S)
        writer.write(b"\xe0\x00")
        await writer.drain()
    except asyncio.IncompleteReadError as fault:
        raise errors.Unavailable(what="the broker's MQTT", delay=PAUSE_S) from fault
    finally:
        writer.close()


Feed = Callable[[Any, str, str], Awaitable[None]]
"""(hosted service, the broker's URL, where it listens) → runs for ever."""
