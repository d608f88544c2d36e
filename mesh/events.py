"""Events: the envelope (CloudEvents 1.0, binary mode) and the subject. Separate from the outbox, so that
subscribers and the relay read one description."""

import datetime
import functools
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from mesh import contract, regions


def subject(region: str, domain: str, singular: str, verb: str) -> str:
    """`village.36.04.23.habitat.report.filed`."""
    return f"village.{regions.tokens(region)}.{domain}.{contract.snake(singular)}.{verb}"


def stream(domain: str) -> str:
    """The stream that holds a domain's events at a node."""
    return f"EV_{domain}"


def headers(
    *, event_id: str, kind: str, region: str, domain: str, name: str, time: datetime.datetime,
    epoch: int, incarnation: int, number: int, trace: str, audit_digest: str,
) -> dict[str, str]:  # fmt: skip
    """The headers of an event; `ce-id` is also `Nats-Msg-Id`, so that the broker drops a repetition."""
    found = {
        "Nats-Msg-Id": event_id,
        "ce-specversion": "1.0",
        "ce-id": event_id,
        "ce-type": kind,
        "ce-source": f"/regions/{region}/{domain}",
        "ce-subject": name,
        "ce-time": time.astimezone(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "ce-sequence": f"{epoch}.{incarnation}.{number}",
        "ce-datacontenttype": "application/protobuf",
        "ce-auditdigest": audit_digest,
    }
    if trace:
        found["traceparent"] = trace
    return found


def as_json(subject_: str, found: dict[str, str], payload: bytes) -> dict[str, Any]:
    """An event as one JSON object: the CloudEvents attributes, the subject it came on, and its payload
    in the protobuf JSON mapping; `data_base64` when this program does not know the type."""
    import base64

    shown: dict[str, Any] = {k.removeprefix("ce-"): v for k, v in found.items() if k.startswith("ce-")}
    shown["nats_subject"] = subject_
    message = decode(found.get("ce-type", ""), payload)
    if message is None:
        shown["data_base64"] = base64.b64encode(payload).decode()
    else:
        shown["data"] = json_format.MessageToDict(message)
    return shown


def decode(kind: str, payload: bytes) -> Message | None:
    """The payload as a message of type `kind`, or None when that is not known here."""
    cls = class_of(kind)
    return cls.FromString(payload) if cls is not None else None


@functools.lru_cache(1000)
def class_of(kind: str) -> type[Message] | None:
    """The message class of that name, or None when it is not known here."""
    package = kind.rpartition(".")[0]
    try:
        if package.startswith("village."):
            contract.modules(package)
        from google.protobuf import descriptor_pool, message_factory

        return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(kind))
    except (KeyError, contract.BadContract):
        return None
