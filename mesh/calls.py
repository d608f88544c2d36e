"""One call as a handler sees it: read, decide, hand over changes. It holds no transaction; when the
handler has returned, everything handed over becomes one commit. A handler may run again on a fresh call."""

import dataclasses
import datetime
import hashlib
from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

from mesh import (
    audit,
    contract,
    database,
    errors,
    events,
    flows,
    identity,
    lists,
    privacy,
    regions,
    resources,
)
from mesh.store import Store
from village.type.v1 import step_pb2

M = TypeVar("M", bound=Message)


@dataclasses.dataclass
class _Held:
    """A resource in the hands of a call."""

    codec: resources.Codec
    row: resources.Row | None
    """As it was read; None for one that the call creates."""
    message: Any
    alarm: datetime.datetime | None
    version: int
    digest: str
    role: str = ""
    """The role that the caller acts in on it; empty when it was only looked at."""
    changed: bool = False


class Call:
    """One call of one method by one caller."""

    def __init__(
        self,
        store: Store,
        *,
        method: contract.Method,
        caller: identity.Caller,
        reference: str,
        now: datetime.datetime,
        etag: str = "",
        request_id: str = "",
        trace: str = "",
        region: str = "",
        services: Any = None,
    ) -> None:
        self.store, self.method, self.caller, self.reference, self.now = store, method, caller, reference, now
        self.trace, self.region, self.services = trace, region, services
        self._relied: dict[str, _Held] = {}
        self._etag, self._request_id = etag, request_id
        self._held: dict[str, _Held] = {}
        self._rows: list[database.Write] = []

    # reading

    def load(self, cls: type[M], name: str) -> M:
        """The resource of that name, if the caller may call the method on it. A call that came with an
        etag is refused with Conflict when the resource has moved since."""
        held = self._held.get(name) or self._read(cls, name)
        if held is None:
            self._refuse_unseen(name)
            raise errors.NotFound(name=name)
        held.role = self._permit(held)
        if self._etag and held.row is not None and self._etag != str(held.row.version):
            raise errors.Conflict(name=name)
        return held.message  # type: ignore[no-any-return]

    def find(self, cls: type[M], name: str) -> M | None:
        """The resource of that name, or None, whatever the caller may see: for rules, not for answers."""
        held = self._held.get(name) or self._read(cls, name)
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

    def create(self, message: M, *, parent: str, event: type[Message], wanted: str = "") -> M:
        """Creates a resource without a flow, and announces it."""
        held = self._new(message, parent, wanted)
        self._announce(held, event, None)
        return message

    def file(self, message: M, *, parent: str, policy: Message, reason: str = "") -> M:
        """Creates a resource with a flow by the flow's first action."""
        held = self._new(message, parent, "")
        flow = self.store.flows[type(message).DESCRIPTOR.full_name]
        message.policy = policy.name  # type: ignore[attr-defined]
        self._take(held, flow, next(iter(flow.actions)), reason, policy)
        return message

    def take(self, message: M, action: str, *, reason: str = "", **step: Any) -> M:
        """Takes an action of the resource's flow on a loaded resource; `step` adds to the history."""
        held = self._held[message.name]  # type: ignore[attr-defined]
        flow = self.store.flows[type(message).DESCRIPTOR.full_name]
        self._take(held, flow, action, reason, self.policy(message), **step)
        return message

    def rely_on(self, message: Any) -> None:
        """Makes the commit hold only if this resource is still as it was read."""
        held = self._held[message.name]
        if held.row is None:
            raise ValueError(f"{message.name} was created by this very call")
        self._relied[message.name] = held

    def policy(self, message: Any) -> Any:
        """The policy that a resource with a flow is under."""
        flow = self.store.flows[type(message).DESCRIPTOR.full_name]
        return self.store.policy(flow.policy, message.policy)

    def alarm(self, name: str) -> datetime.datetime | None:
        """When a resource that was found rings next."""
        return self._held[name].alarm if name in self._held else None

    def around(self, policy: Any) -> flows.Circumstances:
        return flows.Circumstances(self.caller, self.now, self.store.calendar, policy)

    def apply(self, message: Any, taken: flows.Taken) -> None:
        """Hands over what the plumbing did by itself."""
        self._record(self._held[message.name], taken, "", {})

    # what the chain asks for

    def creates(self) -> str:
        """Name of a resource that the call creates, or empty."""
        return next((name for name, h in self._held.items() if h.row is None and h.changed), "")

    def within(self, method: contract.Method, etag: str) -> "Call":
        """The same call under another method's permission: its changes go into the same commit."""
        inner = Call.__new__(Call)
        inner.__dict__.update(self.__dict__)
        inner.method, inner._etag = method, etag
        return inner

    def commit(self, answer: str, fingerprint: str) -> database.Commit | None:
        """Everything handed over, or None when nothing was. `answer` is kept for repetitions."""
        changed = [h for h in self._held.values() if h.changed]
        if not changed:
            return None
        regions_ = {resources.region_in(h.message.name) for h in changed}
        if len(regions_) != 1:
            raise ValueError(f"one commit is for one region, not {sorted(regions_)}")
        grant = self.store.grants.of(regions_.pop())
        commit = database.Commit(grant.region, grant.domain, grant.epoch)
        for held in {**self._relied, **{h.message.name: h for h in changed}}.values():
            if held.row is not None:
                commit.held.append((held.codec.table, held.message.name, held.row.version))
        commit.writes = [self._write(h) for h in changed] + self._rows
        if self._request_id:
            request = {"caller": self.reference, "request_id": self._request_id, "fingerprint": fingerprint,
                       "answer": answer, "time": self.store.instant(self.now)}  # fmt: skip
            commit.writes.append(database.Write(self.store.plumbing.request, request))
        return commit

    # inside

    def _read(self, cls: type[Message], name: str) -> _Held | None:
        codec = self.store.codec(cls)
        row = self.store.row(codec, name)
        if row is None:
            return None
        held = _Held(codec, row, row.message, row.alarm, row.version, row.digest)
        self._held[name] = held
        return held

    def _new(self, message: Any, parent: str, wanted: str) -> _Held:
        codec = self.store.codec(type(message))
        message.name = resources.new_name(codec.resource, parent, self.now, wanted)
        division = codec.resource.division
        if division and not regions.contains(resources.region_in(parent), getattr(message, division)):
            field = f"{contract.snake(codec.resource.singular)}.{division}"
            raise errors.Invalid(field, f"is not a division of {parent}")
        held = _Held(codec, None, message, None, 0, "")
        held.role = self._permit(held)
        self._held[message.name] = held
        return held

    def _permit(self, held: _Held) -> str:
        if self.caller is identity.SYSTEM:
            return "SYS"
        resource, message = held.codec.resource, held.message
        region = resources.region_in(message.name)
        place = identity.Place(
            region=region,
            division=getattr(message, resource.division) if resource.division else region,
            unit=getattr(message, resource.handling_unit) if resource.handling_unit and held.row else None,
            own=held.row is None or held.row.owner == self.reference,
        )
        for rule in self.method.rules:
            if rule.differs_from and held.row is not None:
                place = dataclasses.replace(place, earlier=getattr(message, rule.differs_from))
        return identity.permit(self.method, self.caller, place)[1]

    def _refuse_unseen(self, name: str) -> None:
        """Permission before existence: who may see only part of a region does not learn what the rest
        holds."""
        region = resources.region_in(name)
        nowhere = identity.Place(region=region, division=region, unit="", own=False)
        identity.permit(self.method, self.caller, nowhere)

    def _take(
        self, held: _Held, flow: flows.Flow, action: str, reason: str, policy: Any, **step: Any
    ) -> None:
        taken = flows.take(flow, action, held.message, self.around(policy), held.alarm)
        self._record(held, taken, reason, step)

    def _record(self, held: _Held, taken: flows.Taken, reason: str, more: dict[str, Any]) -> None:
        step, name = taken.step, held.message.name
        step.number = held.version + 1
        step.actor, step.organisation, step.reason = self.reference, self.caller.organisation, reason
        step.role = held.role or "SYS"
        for key, value in more.items():
            setattr(step, key, value)
        held.alarm = taken.alarm
        self._announce(held, taken.event, step)
        self._rows.append(database.Write(self.store.plumbing.step, self.store.step_values(name, step)))

    def _announce(self, held: _Held, cls: type[Message], step: step_pb2.Step | None) -> None:
        """Counts the version on, and adds the audit row and the event. The digest is over what is
        published, so that copies can be compared without personal data."""
        resource, message = held.codec.resource, held.message
        held.version, held.changed = held.version + 1, True
        message.etag = str(held.version)
        published = privacy.risen(message, resource.shape, resource.rises)
        before, raw = held.digest, published.SerializeToString(deterministic=True)
        held.digest = hashlib.sha256(raw).hexdigest()
        digest = self._audit(held, before)
        event = cls()
        described = contract.read_event(cls)
        getattr(event, described.field).CopyFrom(published)
        if step is not None:
            of = resources.shape_of(step)
            event.step.CopyFrom(privacy.risen(step, of, resource.rises))  # type: ignore[attr-defined]
        grant = self.store.grants.of(resources.region_in(message.name))
        outbox = {
            "region": grant.region, "epoch": grant.epoch, "incarnation": grant.incarnation,
            "event_id": resources.uuid7(self.now), "type": cls.DESCRIPTOR.full_name,
            "subject": events.subject(grant.region, grant.domain, resource.singular, described.verb),
            "name": message.name, "time": self.store.instant(self.now), "trace": self.trace,
            "audit_digest": digest, "payload": event.SerializeToString(deterministic=True),
        }  # fmt: skip
        self._rows.append(database.Write(self.store.plumbing.outbox, outbox))

    def _audit(self, held: _Held, before: str) -> str:
        name = held.message.name
        row = {
            "time": self.store.instant(self.now), "region": resources.region_in(name),
            "actor": self.reference, "role": held.role or "SYS", "organisation": self.caller.organisation,
            "method": self.method.name, "name": name, "before_digest": before, "after_digest": held.digest,
            "result": "OK", "request_id": self._request_id, "trace": self.trace,
        }  # fmt: skip
        row["digest"] = audit.digest(row, resources.instant(self.now, sqlite=True))
        self._rows.append(database.Write(self.store.plumbing.audit, row))
        return str(row["digest"])

    def _write(self, held: _Held) -> database.Write:
        message = held.message
        values = {
            "name": message.name, "version": held.version, "digest": held.digest,
            "alarm_time": self.store.instant(held.alarm) if held.alarm else None,
            **held.codec.encode(message),
        }  # fmt: skip
        if held.row is None:
            values |= {"region": resources.region_in(message.name), "owner": self.reference}
        return database.Write(held.codec.table, values, update=held.row is not None)
