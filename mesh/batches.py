"""Many records in one call: read together, or created or acted on all or nothing in one commit or each by
itself. A request holds repeated `actions`, each a oneof of other methods' requests, or repeated `requests` of
one method; the answer holds `results`, each a oneof of the resource, first, and `refusal`. Separate, because
these are the handlers that call handlers."""

from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

from mesh import contract, errors, identity, resources, statuses
from mesh.calls import Call

M = TypeVar("M", bound=Message)


def get(request: Any, call: Call, cls: type[Message], response: type[M]) -> M:
    """The resources that `request.names` names, in that order; refused whole when one is."""
    for i, name in enumerate(request.names):
        _inside(request, name, f"names[{i}]")
    found = [call.load(cls, name) for name in request.names]
    return response(**{contract.snake(contract.resource(cls).plural): found})


def create(request: Any, call: Call, response: type[M]) -> M:
    """Takes every one of `request.requests`. Each is permitted and refused as if called by itself."""
    for i, inner in enumerate(request.requests):
        _inside(request, inner.parent, f"requests[{i}].parent")
    return _each(request, list(request.requests), call, response)


def act(request: Any, call: Call, response: type[M]) -> M:
    """Takes every one of `request.actions`. Each is permitted and refused as if called by itself."""
    for i, action in enumerate(request.actions):
        chosen = action.WhichOneof("action")
        _inside(request, getattr(action, chosen).name, f"actions[{i}].{chosen}.name")
    return _each(request, [getattr(a, a.WhichOneof("action")) for a in request.actions], call, response)


def _inside(request: Any, name: str, field: str) -> None:
    if resources.region_in(name) != resources.region_in(request.parent):
        raise errors.Invalid(field, f"is not under {request.parent}")


def _each(request: Any, inners: Sequence[Any], call: Call, response: type[M]) -> M:
    answer: Any = response()
    outcome = response.DESCRIPTOR.fields_by_name["results"].message_type.fields_by_number[1].name
    for inner in inners:
        result = answer.results.add()
        if request.all_or_nothing:
            getattr(result, outcome).CopyFrom(_together(inner, call))
            continue
        try:
            getattr(result, outcome).CopyFrom(call.services.perform(inner))
        except errors.Refusal as refusal:
            result.refusal.CopyFrom(statuses.status(refusal))
    return answer  # type: ignore[no-any-return]


def _together(inner: Any, call: Call) -> Message:
    endpoint = call.services.chain.endpoint_of(inner)
    identity.permit(endpoint.method, call.caller, None)
    etag = getattr(inner, "etag", "")
    return endpoint.handler(inner, call.within(endpoint.method, etag))  # type: ignore[no-any-return]
