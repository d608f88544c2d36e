"""A county whose calls pass a real Envoy as JSON: what goes through is held against the OpenAPI document, and
the examples in it are seen again. Shared by the journeys, which ask the chain directly where this cannot be
asked."""

import concurrent.futures
import contextlib
import functools
import hashlib
import http.client
import itertools
import json
import os
import pathlib
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
import jsonschema_rs
from cryptography.hazmat.primitives.asymmetric import ed25519
from google.api import annotations_pb2
from google.protobuf import json_format

from gateway import contracts, envoy
from mesh import callers, errors, events, rpc
from tests import gateway as gateways
from tests.county import County
from tests.loop import rows
from tests.waiting import free_port, until

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "protos/village/habitat/v1/examples.json"
_HTTP_BODY = "google.api.HttpBody"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SEALED = re.compile(r"sealed:[\w-]{20,}")
_VOLATILE = {"nextPageToken": "…", "pageToken": "…", "ce-auditdigest": "0" * 64}


class Door(grpc.GenericRpcHandler):  # type: ignore[misc]
    """An Envoy, and behind it whichever county is being asked."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.county: ThroughGateway | None = None
        for name in ("run", "logs", "trust"):
            (folder / name).mkdir()
        (folder / "trust/jwks.json").write_text(
            json.dumps(gateways.jwks(ed25519.Ed25519PrivateKey.generate()))
        )
        spec = envoy.NodeSpec(
            region="360423", address="127.0.0.1", port=free_port(),
            endpoints={"habitat": "unix:run/services.sock"}, node_endpoint="unix:run/services.sock",
            issuers=(envoy.Issuer(issuer="https://nobody.invalid", jwks=folder / "trust/jwks.json"),),
            descriptor_set=ROOT / "gen/village.binpb", calls_per_second=100_000, calls_per_caller=100_000,
        )  # fmt: skip
        envoy.write(spec, folder)
        # Each county has an issuer and a clock of its own: the services judge tokens here, not Envoy.
        listeners = folder / "envoy/dyn/lds.json"
        listeners.write_text(
            listeners.read_text().replace('"allow_missing": {}', '"allow_missing_or_failed": {}')
        )
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        self.server.add_generic_rpc_handlers([self])
        assert self.server.add_insecure_port(f"unix:{os.path.relpath(folder / 'run/services.sock')}")
        self.server.start()
        with (folder / "logs/envoy.log").open("w") as log:
            self.process = subprocess.Popen(
                envoy.command(spec, concurrency=1),
                cwd=folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self.port = spec.port
        until(lambda: self.process.poll() is not None or self._answers())
        assert self.process.poll() is None, (folder / "logs/envoy.log").read_text()
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=1).close()
            return True
        return False

    def close(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.wait(10)
        self.server.stop(0).wait()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        def unary(raw: bytes, context: grpc.ServicerContext) -> bytes:
            assert self.county is not None
            return self.county.served(details.method, raw, context)

        return grpc.unary_unary_rpc_method_handler(unary)


class ThroughGateway(County):
    """Wuning's habitat behind the door."""

    def behind(self, door: Door, shown: set[str] | None) -> "ThroughGateway":
        """This county, asked through that door. `shown`: the methods whose exchanges are kept; None: all."""
        self.door, self.shown, door.county = door, shown, self
        self.refused: errors.Refusal | None = None
        self.asking = False
        """Whether a call is under way: what a handler asks meanwhile does not go through."""
        self.seen: dict[str, Any] = {}
        return self

    def served(self, path: str, raw: bytes, context: Any) -> bytes:
        """The chain's answer to a call that came through."""
        headers = {k: v for k, v in context.invocation_metadata() if isinstance(v, str)}
        try:
            return bytes(self.chain.answer(rpc.Incoming(path, raw, headers)))
        except errors.Refusal as refusal:
            self.refused = refusal
            from mesh.transport import _abort

            return bytes(_abort(context, refusal))

    def raw(self, method: str, raw: bytes, headers: dict[str, str]) -> bytes:
        found = self.contract.methods[method]
        verb, template, body = _rules()[method]
        if not template or found.streams_in or found.streams_out or callers.NODE in headers or self.asking:
            return super().raw(method, raw, headers)
        message = json_format.MessageToDict(found.request.FromString(raw))
        try:
            sent = _sent(template, body, message)
        except KeyError:  # what a URL cannot say: the chain itself has to refuse it
            return super().raw(method, raw, headers)
        url = sent["url"] + ("?" + urllib.parse.urlencode(sent["query"], doseq=True) if sent["query"] else "")
        content = json.dumps(sent["body"], ensure_ascii=False).encode() if body else None
        more = {"content-type": "application/json"} if body else {}
        self.refused, self.door.county = None, self
        self.asking = True
        self.door.connection.request(verb.upper(), url, content, {**headers, **more})
        answer = self.door.connection.getresponse()
        text = answer.read()
        self.asking = False
        if answer.status != 200:
            assert self.refused is not None, (answer.status, url, text)
            details = json.loads(text)["details"]
            assert any(d.get("reason") == self.refused.reason for d in details), text
            status(answer.status).validate(json.loads(text))
            raise self.refused
        if found.response.DESCRIPTOR.full_name == _HTTP_BODY:
            body_ = found.response(content_type=answer.getheader("content-type"), data=text)
            return bytes(body_.SerializeToString())
        told = json.loads(text)
        answers(method).validate(told)
        if body:
            requests(method).validate(sent["body"])
        self._keep(method, sent, told)
        return bytes(json_format.ParseDict(told, found.response()).SerializeToString())

    def _keep(self, method: str, sent: dict[str, Any], told: Any) -> None:
        """Keeps what this test sent and was answered, where the document shows it or may come to."""
        if self.shown is not None and method not in self.shown:
            return
        example = {"path": sent["path"], "query": sent["query"], "body": sent["body"], "answer": told}
        kept = self.seen.setdefault(method, [])
        kept.append(settled({k: v for k, v in example.items() if v or k == "answer"}))

    def announced(self) -> dict[str, Any]:
        """The payload of the first event of each kind that was announced."""
        found: dict[str, Any] = {}
        for kind, payload in rows(self, "SELECT type, payload FROM mesh_outbox ORDER BY id"):
            short = kind.rpartition(".")[2]
            if short not in found and (message := events.decode(kind, payload)) is not None:
                found[short] = settled({"payload": json_format.MessageToDict(message)})
        return found


@functools.cache
def document() -> Any:
    return json.loads((contracts.GENERATED / "documents/habitat.openapi.json").read_text())


@functools.cache
def _registry() -> Any:
    return jsonschema_rs.Registry([("urn:document", document())])


@functools.cache
def _places() -> dict[str, tuple[str, str]]:
    """Where each method stands in the document: URL and verb."""
    return {o["operationId"]: (url, verb) for url, p in document()["paths"].items() for verb, o in p.items()}


def _validator(*steps: str) -> Any:
    """Judges by the schema that stands there in the document."""
    pointer = "/".join(step.replace("~", "~0").replace("/", "~1") for step in ("", *steps))
    schema = {"$ref": f"urn:document#{urllib.parse.quote(pointer)}"}
    return jsonschema_rs.Draft202012Validator(schema, registry=_registry())


@functools.cache
def answers(method: str) -> Any:
    """Judges the answers of a method by the document."""
    content = ("responses", "200", "content", "application/json", "schema")
    return _validator("paths", *_places()[method], *content)


@functools.cache
def requests(method: str) -> Any:
    """Judges the bodies of a method by the document."""
    return _validator("paths", *_places()[method], "requestBody", "content", "application/json", "schema")


@functools.cache
def status(code: int) -> Any:
    """Judges refusals by the document."""
    return _validator("components", "responses", f"Refused{code}", "content", "application/json", "schema")


@functools.cache
def _rules() -> dict[str, tuple[str, str, str]]:
    from mesh import contract

    found: dict[str, tuple[str, str, str]] = {}
    for module in contract.modules("village.habitat.v1"):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                rule = method.GetOptions().Extensions[annotations_pb2.http]
                verb = rule.WhichOneof("pattern")
                found[method.name] = (verb, getattr(rule, verb), rule.body) if verb else ("", "", "")
    return found


def _sent(template: str, body: str, message: dict[str, Any]) -> dict[str, Any]:
    """A request as a URL, its parameters and a body. KeyError when its URL cannot be written."""
    path: dict[str, str] = {}

    def put(match: re.Match[str]) -> str:
        names, pattern = match[1].split("."), match[2] or "*"
        at = message
        for name in names[:-1]:
            at = at[_camel(name)]
        value = str(at.pop(_camel(names[-1])))
        parts = pattern.split("/")
        if len(parts) != len(value.split("/")) or "" in value.split("/") or re.search(r"[^\w./~-]", value):
            raise KeyError(value)
        for before, part, got in zip(["", *parts], parts, value.split("/"), strict=False):
            if part == "*":
                path[_singular(before) or match[1]] = got
            elif part != got:
                raise KeyError(value)
        return value

    url = re.sub(r"\{([\w.]+)(?:=([^}]*))?\}", put, template)
    if body == "*":
        return {"url": url, "path": path, "query": {}, "body": message}
    inside = message.pop(_camel(body), {}) if body else None
    return {"url": url, "path": path, "query": _flat(message), "body": inside}


def _flat(message: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in message.items():
        if isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = str(value).lower() if isinstance(value, bool) else value
    return found


def _camel(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda m: m[1].upper(), name)


@functools.cache
def _singular(plural: str) -> str:
    for parameter in re.findall(rf"/{plural}/\{{(\w+)\}}", " ".join(document()["paths"])) if plural else ():
        return str(parameter)
    return ""


def counted(uuid7: Callable[[Any], str]) -> Callable[[Any], str]:
    """The ids of records, by time and then by number instead of chance."""
    numbers = itertools.count(1)
    return lambda now: f"{uuid7(now)[:19]}8000-{next(numbers):012x}"


def settled(example: dict[str, Any]) -> dict[str, Any]:
    """An example with what chance gave it replaced, so that it is the same each time."""
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        n = len(numbers) + 1
        return numbers.setdefault(match[0], f"019ca000-0000-7000-8000-{n:012d}")

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: _VOLATILE[k] if v and k in _VOLATILE else walk(v) for k, v in value.items()}
        if isinstance(value, list):
            return [walk(v) for v in value]
        if not isinstance(value, str):
            return value
        return _SEALED.sub("sealed:AAAAAAAAAAAAAAAAAAAAAAAA", _UUID.sub(number, value))

    return dict(walk(example))


@functools.cache
def kept() -> dict[str, Any]:
    """The examples of the document."""
    return json.loads(EXAMPLES.read_text()) if EXAMPLES.exists() else {}


_MADE_BY = {
    **{"Changed": "Update", "Cancelled": "Cancel", "Withdrawn": "Withdraw"},
    **{"Rejected": "Reject", "Discarded": "Discard", "Failed": "Fail"},
}
"""How an event ends that the survey may have made, and how its method begins."""


def shown_by(test: str) -> set[str] | None:
    """The methods whose examples, or whose events' examples, are of that test; None where examples are being
    made, and any may become one."""
    if os.environ.get("VILLAGEMESH_EXAMPLES"):
        return None
    found = {method for method, example in kept().items() if example.get("test") == test}
    for kind, event in kept().get("events", {}).items():
        for end, verb in _MADE_BY.items() if event["test"] == test else ():
            if kind.endswith(end):
                found.add(verb + kind.removesuffix(end))
    return found


def _bare(example: Any) -> Any:
    """An example less its etags, which count what else was asked of a record."""
    if isinstance(example, dict):
        return {k: _bare(v) for k, v in example.items() if k not in ("etag", "test")}
    return [_bare(v) for v in example] if isinstance(example, list) else example


def settle_examples(counties: list[Any], test: str) -> None:
    """After a test: what the document shows of it was seen again; or, where examples are being made, kept."""
    folder = os.environ.get("VILLAGEMESH_EXAMPLES")
    shown = {kind: event for kind, event in kept().get("events", {}).items() if event["test"] == test}
    seen: dict[str, list[Any]] = {}
    announced: dict[str, Any] = {}
    for county in counties:
        if folder or shown:
            announced = {**county.announced(), **announced}
        for method, exchanged in county.seen.items():
            seen.setdefault(method, []).extend(exchanged)
    if folder:
        found = {"test": test, "seen": seen, "events": announced}
        path = pathlib.Path(folder, f"{hashlib.sha256(test.encode()).hexdigest()}.json")
        path.write_text(json.dumps(found, ensure_ascii=False))
        return
    for method, example in kept().items():
        if example.get("test") == test:
            exchanged = map(_bare, seen.get(method, ()))
            assert _bare(example) in exchanged, f"{method} was not as in its example: make examples"
    for kind, event in shown.items():
        assert kind in announced, f"{kind} was not announced: make examples"
        if not kind.endswith(tuple(_MADE_BY)):  # of which record, depends on what else was called off
            assert _bare(announced[kind]) == _bare(event), f"{kind} differs: make examples"
