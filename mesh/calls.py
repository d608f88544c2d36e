"""One call as a handler sees it: read, decide, hand over changes. It holds no transaction; when the
handler has returned, everything handed over becomes one commit. A handler may run again on a fresh call."""

import datetime
from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

from mesh import (
    attachments,
    contract,
    errors,
    flows,
    identity,
    lists,
    privacy,
    regions,
    resources,
    shapes,
)
from mesh.changes import Acting, Changes, Held
from mesh.store import Store
from village.options.v1 import options_pb2

M = TypeVar("M", bound=Message)


class Call:
    """One call of one method by one caller."""

    def __init__(
        self,
        store: Store,
        *,
        method: contract.Method,
        acting: Acting,
        etag: str = "",
        region: str = "",
        services: Any = None,
    ) -> None:
        self.store, self.method, self.acting, self.region = store, method, acting, region
        self.services, self._etag = services, etag
        self.caller, self.reference, self.now = acting.caller, acting.reference, acting.now
        self.asked = acting.asked or acting.now
        """When the caller asked: before `now`, from which limits count, where the call was delivered late."""
        self.changes = Changes(store, acting, region)

    # reading

    def load(self, cls: type[M], name: str) -> M:
        """The resource of that name, if the caller may call the method on it. A call that came with an
        etag is refused with Conflict when the resource has moved since."""
        held = self.changes.held.get(name) or self._read(cls, name)
        if held is None:
            self._refuse_unseen(name)
            raise errors.NotFound(name=name)
        held.role = self._permit(held)
        if self._etag and held.row is not None and self._etag != str(held.row.version):
            raise errors.Conflict(name=name)
        return held.message  # type: ignore[no-any-return]

    def find(self, cls: type[M], name: str) -> M | None:
        """The resource of that name, or None, whatever the caller may see: for rules, not for answers."""
        held = self.changes.held.get(name) or self._read(cls, name)
        return held.message if held else None

    def page(self, cls: type[Message], request: Any, response: type[M]) -> M:
        """A page of the resources that the caller may see and the request asks for."""
        codec = self.store.codec(cls)
        found, token = lists.page(self.store, codec, request, method=self.method, caller=self.caller,
                                  reference=self.reference)  # fmt: skip
        return response(**{contract.snake(codec.resource.plural): found, "next_page_token": token})

    def history(self, request: Any, response: type[M]) -> M:
        """A page of the steps of the resource that `request.parent` names, which must be loaded before."""
        size, after = lists.page_size(request), lists.plain_token(self.store, request, self.method)
        steps = self.store.history(request.parent, after=after, limit=size + 1)
        more = len(steps) > size
        token = lists.token(self.store, self.method, request, [steps[size - 1].number]) if more else ""
        return response(steps=steps[:size], next_page_token=token)

    def recent(self, cls: type[Message], build: Any, **parameters: Any) -> Sequence[Any]:
        """Rows of the question `build(table)`, one that every call asks and whose answer seldom changes:
        at most a second old, and none of this process's changes missed."""
        return self.store.recent(cls, build, parameters)

    def select(self, statement: Any) -> Sequence[Any]:
        """Rows of a question that only SQL can answer."""
        return self.store.database.select(statement)

    # changing

    def create(
        self, message: M, *, parent: str, event: type[Message], wanted: str = "", shared: bool = False
    ) -> M:
        """Creates a resource without a flow, and announces it. `wanted`: the last part of its name; `shared`:
        whoever comes first creates it for all, and the others run again rather than being refused."""
        held = self._new(message, parent, wanted)
        held.shared = shared
        self.changes.announce(held, event)
        return message

    def save(self, message: M, event: type[Message]) -> M:
        """Changes a loaded resource without a flow, and announces it."""
        self.changes.announce(self._held(message), event)
        return message

    def update(self, given: M, mask: Any, event: type[Message]) -> M:
        """Changes the fields that `mask` names of the resource that `given` names (AIP-134)."""
        kept = self.load(type(given), given.name)  # type: ignore[attr-defined]
        resource = self.store.codec(type(given)).resource
        resources.merge(kept, given, mask, resource)
        shapes.check(kept, within=contract.snake(resource.singular))
        return self.save(kept, event)

    def file(self, message: M, *, parent: str, policy: Any = None, reason: str = "", wanted: str = "") -> M:
        """Creates a resource with a flow by the flow's first action; with the policy where it has limits."""
        held = self._new(message, parent, wanted)
        flow = self.store.flow(type(message))
        if policy is not None:
            message.policy = policy.name  # type: ignore[attr-defined]
        taken = flows.take(flow, next(iter(flow.actions)), message, self.around(policy), None)
        self.changes.take(held, taken, reason, {})
        return message

    def take(self, message: M, action: str, *, reason: str = "", cause: str = "", **step: Any) -> M:
        """Takes an action of the resource's flow on a loaded resource; `cause`: why the clock stops, where
        it does; `step` adds to the history."""
        held = self._held(message)
        around = self.around(self.policy(message), held.message.name)
        taken = flows.take(self.store.flow(type(message)), action, message, around, held.alarm, cause=cause)
        self.changes.take(held, taken, reason, step)
        return message

    def erase(self, message: M, action: str) -> M:
        """Empties what a loaded resource and its history hold of persons, by an action of its flow."""
        resource = self._held(message).codec.resource
        privacy.erase(message, resource.shape)
        self.changes.forget_reasons(self._held(message))
        return self.take(message, action)

    def delete(self, message: Message, event: type[Message]) -> None:
        """Deletes a loaded resource with its history and its files, and announces that. Only one whose events
        never carried more than its name: of others copies and logs would still tell. The audit trail keeps
        who did what to which name."""
        resource = self._held(message).codec.resource
        if resource.rises not in (options_pb2.RISES_NEVER, options_pb2.RISES_COUNTS):
            raise ValueError(f"{resource.shape.full_name} leaves the node: its copies would stay")
        self.changes.delete(self._held(message), event)

    def disclose(self, message: Message) -> None:
        """Says in the audit trail that a loaded resource is shown unmasked, or what is under seal in it."""
        held = self._held(message)
        self.changes.audit(held, held.digest)

    def rely_on(self, message: Any) -> None:
        """Makes the commit hold only if this resource is still as it was read."""
        self.changes.rely_on(self._held(message))

    def policy(self, message: Any) -> Any:
        """The policy that a resource with a flow is under; None where it has no limits."""
        under = self.store.flow(type(message)).policy
        return None if under is None else self.store.policy(under, message.policy)

    def around(self, policy: Any, name: str = "") -> flows.Circumstances:
        """What guards may ask for; `name`: whose history."""
        return flows.Circumstances(
            self.caller, self.now, self.store.calendar, policy, lambda: self.store.history(name)
        )

    def within(self, method: contract.Method, etag: str = "") -> "Call":
        """The same call under another method's permission: its changes go into the same commit."""
        inner = Call.__new__(Call)
        inner.__dict__.update(self.__dict__)
        inner.method, inner._etag = method, etag
        return inner

    def as_system(self, method: contract.Method) -> "Call":
        """The same call, permitted as the plumbing is."""
        inner = self.within(method)
        inner.caller = identity.SYSTEM
        return inner

    # inside

    def _held(self, message: Any) -> Held:
        return self.changes.held[message.name]

    def _read(self, cls: type[Message], name: str) -> Held | None:
        codec = self.store.codec(cls)
        row = self.store.row(codec, name)
        if row is None:
            return None
        # what a record refers to is asked only where it may change
        referred = {} if self.method.read_only else attachments.referred(row.message, codec.resource.shape)
        held = Held(codec, row, row.message, row.alarm, row.version, row.digest, attached=frozenset(referred))
        self.changes.held[name] = held
        return held

    def _new(self, message: Any, parent: str, wanted: str) -> Held:
        codec = self.store.codec(type(message))
        message.name = resources.new_name(codec.resource, parent, self.now, wanted)
        division = codec.resource.division
        if division and not regions.contains(resources.region_in(parent), getattr(message, division)):
            field = f"{contract.snake(codec.resource.singular)}.{division}"
            raise errors.Invalid(field, f"is not a division of {parent}")
        held = Held(codec, None, message)
        held.role = self._permit(held)
        self.changes.held[message.name] = held
        return held

    def _permit(self, held: Held) -> str:
        if self.caller is identity.SYSTEM:
            return "SYS"
        resource, message = held.codec.resource, held.message
        region = resources.region_in(message.name)
        place = identity.Place(
            region=region,
            division=getattr(message, resource.division) if resource.division else region,
            unit=getattr(message, resource.handling_unit) if resource.handling_unit and held.row else None,
            own=held.row is None or held.row.owner == self.reference,
            record=message if held.row is not None else None,
            me=frozenset(filter(None, (self.reference, self.caller.deputy))),
        )
        self.changes.role = identity.permit(self.method, self.caller, place)[1]
        return self.changes.role

    def _refuse_unseen(self, name: str) -> None:
        """Permission before existence: who may see only part of a region does not learn what the rest
        holds."""
        region = resources.region_in(name)
        nowhere = identity.Place(region=region, division=region, unit="", own=False)
        identity.permit(self.method, self.caller, nowhere)


def own(store: Store, method: str, now: datetime.datetime, region: str = "", *, trace: str = "") -> Call:
    """A call of the plumbing by itself: a timer, a seed, a reaction."""
    acting = Acting(identity.SYSTEM, "system", method, now, trace=trace)
    return Call(store, method=contract.internal(method), acting=acting, region=region)
