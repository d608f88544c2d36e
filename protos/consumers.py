"""What consumers wrote down that they need (`needs/`, YAML or JSON), looked up in today's contract and
compared with the release that they wrote it against. Separate from the rules for everybody, because here
the answer names who would be hit, and lasts when the release itself has retired."""

import pathlib
from collections.abc import Iterator
from typing import Any

import yaml
from google.api import field_behavior_pb2

from protos import evolution, images

PARTS = {"consumer", "contact", "since", "fields", "methods"}
"""Of a file. `consumer` and `contact` are for people; findings begin with the file's name."""


def missed(
    today: images.Image,
    folder: pathlib.Path = evolution.NEEDS,
    releases: pathlib.Path = evolution.RELEASES,
) -> Iterator[str]:
    """What a consumer needs and today's contract does not give him any more."""
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".json")):
        needs = yaml.safe_load(path.read_text())
        try:
            if set(needs) - PARTS or not {"consumer", "since"} <= set(needs):
                raise KeyError(f"it has {', '.join(map(str, needs))}")
            old = images.read(evolution.frozen(str(needs["since"]), releases))
            found = [*_fields(old, today, needs), *_methods(old, today, needs)]
        except (KeyError, OSError, TypeError) as fault:
            found = [f"the file itself is wrong: {fault}"]
        yield from (f"{path.stem}: {what}" for what in found)


def _fields(old: images.Image, today: images.Image, needs: dict[str, Any]) -> Iterator[str]:
    for name, paths in (needs.get("fields") or {}).items():
        if name not in old.messages:
            raise KeyError(f"{name} is not in {needs['since']}")
        if name not in today.messages:
            yield f"{name} is gone"
            continue
        if name in set(old.events()) and _fact(old, name) != _fact(today, name):
            yield f"{name} was announced as {_fact(old, name)} and now is as {_fact(today, name)}"
        for path in paths:
            yield from (f"{name}.{path} {what}" for what in _path(old, today, name, path))


def _fact(image: images.Image, name: str) -> str:
    return f"{image.resource(name).singular}.{evolution.verb(image.messages[name])}"


def _path(old: images.Image, today: images.Image, name: str, path: str) -> Iterator[str]:
    inside = name
    for step in path.split("."):
        was = next((f for f in old.messages[inside].field if f.name == step), None)
        if was is None:
            raise KeyError(f"{inside} never had {step}")
        now = next((f for f in today.messages[inside].field if f.name == step), None)
        if now is None:
            other = next((f.name for f in today.messages[inside].field if f.number == was.number), "")
            yield f"is called {other} now" if other else "is gone"
            return
        for part in ("number", "type", "type_name", "label", "json_name"):
            if getattr(was, part) != getattr(now, part):
                yield f"has another {part}: {getattr(was, part)} became {getattr(now, part)}"
        had, has = (set(f.options.Extensions[field_behavior_pb2.field_behavior]) for f in (was, now))
        yield from (f"became {name}" for b, name in evolution.BINDING.items() if b in has - had)
        inside = was.type_name.lstrip(".")
        if inside.startswith("google."):
            return  # what it holds is not ours to change


def _methods(old: images.Image, today: images.Image, needs: dict[str, Any]) -> Iterator[str]:
    for name, roles in (needs.get("methods") or {}).items():
        if name not in old.methods:
            raise KeyError(f"{name} is not in {needs['since']}")
        if name not in today.methods:
            yield f"{name} is gone"
            continue
        for role in evolution.withdrawn(old.access(name), today.access(name), roles):
            yield f"{role} may no longer call {name}"
