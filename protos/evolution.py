"""`python -m protos.evolution`: whether anybody who relies on a release could still rely on today's contract.
Of what Protobuf itself knows `buf breaking` is asked; what our annotations say is compared here; and what
consumers wrote down that they need (`needs/`) is looked up. docs/evolution.md has the rules."""

import datetime
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from buf.validate import validate_pb2
from google.api import annotations_pb2, field_behavior_pb2, resource_pb2

from protos import images
from village.options.v1 import options_pb2

RELEASES = images.ROOT / "protos/releases"
NEEDS = images.ROOT / "protos/needs"
BINDING = {
    field_behavior_pb2.REQUIRED: "required",
    field_behavior_pb2.OUTPUT_ONLY: "output only",
    field_behavior_pb2.IMMUTABLE: "immutable",
}
"""What a field may not become for those who send it, or send it without."""
LOWER = {"gt", "gte", "min_len", "min_bytes", "min_items", "min_pairs"}
UPPER = {"lt", "lte", "max_len", "max_bytes", "max_items", "max_pairs"}
GROWING = {"in"}
WIDER = {options_pb2.SCOPE_OWN_REGION: {options_pb2.SCOPE_OWN_REGION, options_pb2.SCOPE_SUBTREE}}
"""Scopes that hold all of another."""


def releases(folder: pathlib.Path = RELEASES) -> dict[str, dict[str, Any]]:
    """The releases that count, oldest first: all that are not retired yet."""
    found = yaml.safe_load((folder / "releases.yaml").read_text()) or {}
    today = datetime.datetime.now(datetime.UTC).date()
    return {v: r for v, r in found.items() if r.get("retired") is None or r["retired"] > today}


def frozen(version: str, folder: pathlib.Path = RELEASES) -> pathlib.Path:
    """Where the image of a release is."""
    return folder / f"{version}.binpb.gz"


def buf(old: pathlib.Path, new: pathlib.Path) -> list[str]:
    """What Protobuf's own rules say of a change."""
    asked = (pathlib.Path(sys.executable).parent / "buf", "breaking", new, "--against", old)
    how = ("--config", images.ROOT / "buf.yaml", "--error-format", "json")
    done = subprocess.run([*asked, *how], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 100):
        raise SystemExit(f"villagemesh: buf cannot compare: {done.stdout}{done.stderr}")
    return [f"{f.get('path', '')}: {f['message']}" for f in map(json.loads, done.stdout.splitlines())]


def annotated(old: images.Image, new: images.Image) -> Iterator[str]:
    """What our annotations took back or gave away. What is gone altogether is buf's to say."""
    for name, before in old.messages.items():
        if (after := new.messages.get(name)) is not None:
            yield from (f"{name}: {what}" for what in _message(before, after))
            yield from (f"{name}.{what}" for what in _fields(before, after))
    for name in set(old.events()) & set(new.messages):
        was, now = (f"{i.resource(name).singular} {verb(i.messages[name])}" for i in (old, new))
        if was != now:
            yield f"{name}: the subject ended in {was!r} and now in {now!r}"
    for name in old.methods.keys() & new.methods.keys():
        yield from (f"{name}: {what}" for what in _method(old, new, name))


def verb(event: Any) -> str:
    """The last word of an event's subject."""
    return str(event.options.Extensions[options_pb2.event].verb)


def _message(before: Any, after: Any) -> Iterator[str]:
    was, now = (m.options.Extensions[resource_pb2.resource] for m in (before, after))
    for part in ("type", "singular", "plural"):
        if getattr(was, part) != getattr(now, part):
            yield f"its {part} was {getattr(was, part)!r} and now is {getattr(now, part)!r}"
    if list(was.pattern) != list(now.pattern)[: len(was.pattern)]:
        yield f"names were like {list(was.pattern)} and now are like {list(now.pattern)}"
    kept, keeps = (m.options.Extensions[options_pb2.resource] for m in (before, after))
    was_rises, rises = (k.rises or options_pb2.RISES_MASKED for k in (kept, keeps))
    if was_rises != rises:
        way = "more than before leaves its owner" if rises < was_rises else "less reaches subscribers"
        name = options_pb2.Rises.Name
        yield f"{way}: {name(was_rises)} became {name(rises)}"
    parents, allowed = (frozenset(k.parents) or frozenset({3, 4, 5}) for k in (kept, keeps))
    if parents - allowed:
        yield "it can no longer be written below some level of region"
    for part in ("unique", "checks"):
        for more in set(getattr(keeps, part)) - set(getattr(kept, part)):
            yield f"a record must now also be {part} of {more!r}"
    rules, today = (dict(_flat(m.options.Extensions[validate_pb2.message])) for m in (before, after))
    yield from (f"messages are refused that were not: {rule}" for rule in _tighter(rules, today))
    for oneof in after.oneof_decl:
        had = next((o for o in before.oneof_decl if o.name == oneof.name), None)
        demands = (o.options.Extensions[validate_pb2.oneof].required for o in (had, oneof) if o is not None)
        if list(demands)[-1:] == [True] and not (had and had.options.Extensions[validate_pb2.oneof].required):
            yield f"one of {oneof.name} is now required"


def _fields(before: Any, after: Any) -> Iterator[str]:
    earlier = {f.name: f for f in before.field}
    for field in after.field:
        was = earlier.get(field.name)
        rules = dict(_flat(field.options.Extensions[validate_pb2.field]))
        bound = set(field.options.Extensions[field_behavior_pb2.field_behavior])
        if was is None:
            if field_behavior_pb2.REQUIRED in bound or any(_refuses_nothing(field, r, rules) for r in rules):
                yield f"{field.name}: it is new, and who does not know it is refused"
            continue
        bound -= set(was.options.Extensions[field_behavior_pb2.field_behavior])
        yield from (f"{field.name}: it became {BINDING[b]}" for b in BINDING if b in bound)
        allowed = dict(_flat(was.options.Extensions[validate_pb2.field]))
        yield from (f"{field.name}: values are refused that were not: {r}" for r in _tighter(allowed, rules))
        said, says = (f.options.Extensions[options_pb2.field] for f in (was, field))
        for part in ("personal", "meaning", "sealed"):
            if getattr(said, part) != getattr(says, part):
                yield f"{field.name}: {part} was {getattr(said, part)} and now is {getattr(says, part)}"
        for part in ("filterable", "searchable"):
            if getattr(said, part) and not getattr(says, part):
                yield f"{field.name}: it is no longer {part}"


def _flat(rules: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The rules of a message by their paths, as `string.max_len`; lists as sets."""
    for field, value in rules.ListFields():
        at = f"{path}.{field.name}".lstrip(".")
        if field.is_repeated:
            yield at, {v.SerializeToString() if field.message_type else v for v in value}
        elif field.message_type is None:
            yield at, value
        elif field.message_type.full_name in ("google.protobuf.Duration", "google.protobuf.Timestamp"):
            yield at, (value.seconds, value.nanos)
        else:
            yield from _flat(value, at)


def _tighter(was: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """The rules by which something is refused that was taken; what cannot be told counts as one."""
    if was.get("ignore") and was["ignore"] != now.get("ignore") and set(now) - {"ignore"}:
        yield "ignore"
    for at, value in now.items():
        kind, had = at.rpartition(".")[2], was.get(at)
        if kind in ("ignore", "example") or value == had or value is False:
            continue
        if had is not None and (
            (kind in LOWER and value < had)
            or (kind in UPPER and value > had)
            or (kind in GROWING and value > had)
            or (isinstance(value, set) and kind not in GROWING and value < had)
        ):
            continue
        yield at


def _refuses_nothing(field: Any, at: str, rules: dict[str, Any]) -> bool:
    """Whether a rule refuses a field that was not sent."""
    if at == "required":
        return bool(rules[at])
    has_presence = field.proto3_optional or field.HasField("oneof_index") or (
        field.type == field.TYPE_MESSAGE and field.label != field.LABEL_REPEATED
    )  # fmt: skip
    kind, inner = at.rpartition(".")[2], {"items", "keys", "values"} & set(at.split("."))
    spared = {*UPPER, "not_in", "unique", "defined_only", "example", "ignore"}
    if has_presence or inner or "ignore" in rules or kind in spared:
        return False
    return not (kind == "gte" and rules[at] <= 0) and not (kind == "in" and rules[at] & {0, "", b""})


def _method(old: images.Image, new: images.Image, name: str) -> Iterator[str]:
    was, now = (
        {(rule.WhichOneof("pattern"), getattr(rule, rule.WhichOneof("pattern") or "get"), rule.body)
         for rule in (http, *http.additional_bindings)}
        for http in (i.methods[name][1].options.Extensions[annotations_pb2.http] for i in (old, new))
    )  # fmt: skip
    yield from (f"{how} {url} is no longer its URL" for how, url, _ in sorted(was - now))
    allowed, allows = old.access(name), new.access(name)
    yield from (f"{role} may no longer call it as before" for role in withdrawn(allowed, allows))
    if allowed.reveals != allows.reveals:
        yield "what it shows of personal fields has changed"
    if allowed.deferrable and not allows.deferrable:
        yield "it is no longer kept for an owner that cannot be reached"
    if allows.stays and not allowed.stays:
        yield "copies no longer answer it"


def withdrawn(was: Any, now: Any, roles: Iterable[str] = ()) -> list[str]:
    """The roles, or those of them that are named, that had a way to call which they have not any more."""
    lost = set()
    for rule in was.allow:
        for role in rule.roles or (options_pb2.ROLE_PUB,):
            wide = WIDER.get(rule.scope, {rule.scope})
            if not any(
                way.scope == options_pb2.SCOPE_PUBLIC
                or (
                    (role in way.roles or not (rule.roles or way.roles))
                    and way.scope in wide
                    and way.handling_unit <= rule.handling_unit
                    and set(way.differs_from) <= set(rule.differs_from)
                )
                for way in now.allow
            ):
                lost.add(options_pb2.Role.Name(role).removeprefix("ROLE_"))
    return sorted(lost & set(roles) if roles else lost)
