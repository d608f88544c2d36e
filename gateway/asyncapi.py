"""The AsyncAPI 3.0 document of a domain's events, from the descriptor set: subjects, headers, payloads, and
what the broker promises of the stream that holds them. Written when `gen/` is, and served by the node
process."""

import re
from typing import Any

from google.api import resource_pb2

from gateway import VERSION, schemas
from gateway.schemas import Contracts, Schema
from mesh import bus, contract, events
from village.options.v1 import options_pb2

_ABOUT = """The events of the domain `{domain}` of Village Mesh, as a node's NATS broker carries them.

Each is a CloudEvent 1.0 in binary mode: the attributes are headers, the payload is the protobuf message that
`ce-type` names. The payloads are described here in protobuf's JSON mapping; `villagemesh events --json`
prints them so. What may not leave the record's owner is not in them: personal fields are masked, free text is
absent.

Delivery is at least once and in order for each record: keep the `ce-id`s that you have handled, in the
transaction of your own change. Within (region, domain, epoch, incarnation) the numbers in `ce-sequence` rise
by one without gaps. (每条事件至少送达一次；以 ce-id 去重，以 ce-sequence 查漏。)"""
_HEADERS: tuple[tuple[str, str, Schema], ...] = (
    ("ce-specversion", "Version of CloudEvents", {"const": "1.0"}),
    ("ce-id", "The event's id (事件编号), UUIDv7; the same event always has the same", {"format": "uuid"}),
    ("Nats-Msg-Id", "The same, by which the broker drops a repetition", {"format": "uuid"}),
    ("ce-type", "The payload's message", {"pattern": r"^village\.[a-z]+\.v1\.[A-Za-z]+$"}),
    ("ce-source", "Who announces it (来源)", {"pattern": "^/regions/[1-9][0-9]{5}/[a-z]+$"}),
    ("ce-subject", "Name of the resource (资源名)", {"pattern": "^regions/[1-9][0-9]{5}/.+$"}),
    ("ce-time", "When it happened, UTC (发生时间)", {"format": "date-time"}),
    ("ce-sequence", "epoch.incarnation.number (序号)", {"pattern": r"^[0-9]+\.[0-9]+\.[0-9]+$"}),
    ("ce-datacontenttype", "The payload's form", {"const": "application/protobuf"}),
    ("ce-auditdigest", "SHA-256 of the audit row written with it (审计摘要)", {"pattern": "^[0-9a-f]{64}$"}),
    (
        "traceparent",
        "The trace of the call that caused it (W3C)",
        {"pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-"},
    ),
)
_OPTIONAL = {"traceparent"}
_RISES: dict[int, str] = {
    options_pb2.RISES_FULL: "everything, free text included (全部)",
    options_pb2.RISES_MASKED: "personal fields masked, free text absent (脱敏)",
}
_REGION = {
    "pp": "Province: the first two digits of the region, GB/T 2260 (省)",
    "cc": "City: the middle two, 00 for a province (市)",
    "dd": "County: the last two, 00 for a city or province (县)",
}


def document(descriptor_set: bytes, domain: str, terms: dict[str, str], examples: dict[str, Any]) -> Schema:
    """The document of a domain. `terms`: Chinese names of fields by their names; `examples["events"]`:
    payloads by event, as they were announced."""
    contracts = Contracts.of(descriptor_set)
    package = f"village.{domain}.v1"
    found = schemas.Schemas(contracts, package, terms)
    seen = examples.get("events", {})
    channels: Schema = {}
    operations: Schema = {}
    messages: Schema = {}
    for name, of in contracts.types.items():
        if not of.full_name.startswith(f"{package}."):
            continue
        verb = of.proto.options.Extensions[options_pb2.event].verb if of.is_message else ""
        if not verb:
            continue
        short = of.proto.name
        resource = contracts.types[of.proto.field[0].type_name].proto
        singular = contract.snake(resource.options.Extensions[resource_pb2.resource].singular)
        rises = resource.options.Extensions[options_pb2.resource].rises or options_pb2.RISES_MASKED
        messages[short] = _message(of, found.ref(name), rises, seen.get(short))
        channels[short] = {
            "address": f"village.{{pp}}.{{cc}}.{{dd}}.{domain}.{singular}.{verb}",
            "title": schemas.chinese(of.comment) or short,
            "summary": re.sub(r"\s*\([^()]*\)", "", of.comment.partition("\n")[0]),
            "messages": {short: {"$ref": f"#/components/messages/{short}"}},
            "parameters": {key: {"$ref": f"#/components/parameters/{key}"} for key in _REGION},
        }
        operations[f"announce{short}"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{short}"},
            "summary": of.comment.partition("\n")[0],
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": f"Events of {domain}",
            "version": VERSION,
            "description": _ABOUT.format(domain=domain),
            "x-jetstream": {
                "stream": events.stream(domain),
                "retention": "limits",
                "max_age_seconds": int(bus.KEPT_S),
                "duplicate_window_seconds": int(bus.DUPLICATES_S),
            },
        },
        "defaultContentType": "application/protobuf",
        "servers": {
            "node": {
                "host": "127.0.0.1:8424",
                "protocol": "nats",
                "description": "The broker: next to the gateway’s port; see node.json (节点消息总线).",
                "security": [{"$ref": "#/components/securitySchemes/subscriber"}],
            }
        },
        "channels": channels,
        "operations": operations,
        "components": {
            "securitySchemes": {"subscriber": {"type": "userPassword", "description": "user `subscriber`"}},
            "parameters": {key: {"description": text} for key, text in _REGION.items()},
            "messageTraits": {"cloudEvent": {"headers": _headers()}},
            "messages": messages,
            "schemas": dict(sorted(found.components.items())),
        },
    }


def _headers() -> Schema:
    return {
        "type": "object",
        "properties": {
            name: {"type": "string", "description": f"{text}.", **rule} for name, text, rule in _HEADERS
        },
        "required": [name for name, _, _ in _HEADERS if name not in _OPTIONAL],
    }


def _message(of: Any, payload: Schema, rises: int, seen: Any) -> Schema:
    found = {
        "name": of.full_name,
        "title": schemas.chinese(of.comment) or of.proto.name,
        "summary": of.comment.partition("\n")[0],
        "description": f"Leaves its owner: {_RISES.get(int(rises), 'nothing')}.",
        "contentType": "application/protobuf",
        "traits": [{"$ref": "#/components/messageTraits/cloudEvent"}],
        "payload": payload,
    }
    if seen:
        found["examples"] = [{"name": "seen", "payload": seen["payload"]}]
    return found
