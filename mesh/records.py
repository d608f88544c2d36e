"""Handlers of records without a life cycle, which many are: looked up, listed, created and changed as the
standard methods say (AIP-131 to 134); and of the history of those that have one. Separate from `calls`, which
they are written with."""

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from google.protobuf.message import Message

from mesh import calls, contract, flows

Check = Callable[[Any, calls.Call], None]
"""Refuses a record that is to be written, as it will stand."""


def handlers(
    module: Any,
    cls: type[Message],
    *,
    created: type[Message] | None = None,
    changed: type[Message] | None = None,
    check: Check = lambda record, call: None,
) -> dict[str, Any]:
    """Get and List of a resource; Create and Update too where there are events for them. `module` holds its
    requests and answers, named as usual."""
    found = contract.resource(cls)
    field = contract.snake(found.singular)
    one = cls.DESCRIPTOR.name
    many = found.plural[0].upper() + found.plural[1:]

    def get(request: Any, call: calls.Call) -> Any:
        return call.load(cls, request.name)

    def list_(request: Any, call: calls.Call) -> Any:
        return call.page(cls, request, getattr(module, f"List{many}Response"))

    def create(request: Any, call: calls.Call) -> Any:
        assert created is not None
        record = getattr(request, field)
        made = call.create(
            record, parent=request.parent, event=created, wanted=getattr(request, f"{field}_id", "")
        )
        check(made, call)
        return made

    def update(request: Any, call: calls.Call) -> Any:
        assert changed is not None
        record = getattr(request, field)
        record.name = request.name
        kept = call.update(record, request.update_mask, changed)
        check(kept, call)
        return kept

    made: dict[str, Any] = {f"Get{one}": get, f"List{many}": list_}
    if created is not None:
        made[f"Create{one}"] = create
    if changed is not None:
        made[f"Update{one}"] = update
    return made


def histories(of: Iterable[flows.Flow], gets: Mapping[str, Any]) -> dict[str, Any]:
    """`List…Steps` of each resource with a life cycle: its history, for whoever may see it. `gets`: the
    handlers that return the resources, whose own rules hold here too."""
    return dict(_history(flow.resource, gets[f"Get{flow.resource.DESCRIPTOR.name}"]) for flow in of)


def _history(cls: type[Message], get: Callable[[Any, calls.Call], Any]) -> tuple[str, Any]:
    module, one = sys.modules[cls.__module__], cls.DESCRIPTOR.name
    asking, response = getattr(module, f"Get{one}Request"), getattr(module, f"List{one}StepsResponse")

    def list_steps(request: Any, call: calls.Call) -> Any:
        get(asking(name=request.parent), call)
        return call.history(request, response)

    return f"List{one}Steps", list_steps
