"""Many actions in one call: all or nothing in one commit, or each by itself. The request holds repeated
`actions`, each a oneof of other methods' requests; the answer holds `results`, each a oneof of the
resource, first, and `refusal`. Separate, because it is the one handler that calls handlers."""

from typing import Any, TypeVar

from google.protobuf.message import Message

from mesh import errors, identity, resources, rpc
from mesh.calls import Call

M = TypeVar("M", bound=Message)


def act(request: Any, call: Call, response: type[M]) -> M:
    """Takes every action of a batch request. Each is permitted and refused as if called by itself."""
    chosen = [getattr(a, a.WhichOneof("action")) for a in request.actions]
    for i, (action, inner) in enumerate(zip(request.actions, chosen, strict=True)):
        if resources.region_in(inner.name) != resources.region_in(request.parent):
            field = f"actions[{i}].{action.WhichOneof('action')}.name"
            raise errors.Invalid(field, f"is not under {request.parent}")
    answer = response()
    outcome = response.DESCRIPTOR.fields_by_name["results"].message_type.fields_by_number[1].name
    for inner in chosen:
        result = answer.results.add()  # type: ignore[attr-defined]
        if request.all_or_nothing:
            getattr(result, outcome).CopyFrom(_together(inner, call))
            continue
        try:
            getattr(result, outcome).CopyFrom(call.services.perform(inner))
        except errors.Refusal as refusal:
            result.refusal.CopyFrom(rpc.status(refusal))
    return answer


def _together(inner: Any, call: Call) -> Message:
    endpoint = call.services.chain.endpoint_of(inner)
    identity.permit(endpoint.method, call.caller, None)
    return endpoint.handler(inner, call.within(endpoint.method, inner.etag))  # type: ignore[no-any-return]
