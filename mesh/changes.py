"""What a call hands over, and the commit that it becomes: records, history, audit, events, references to
files. Separate from the call, which is what a handler sees."""

import dataclasses
import datetime
import hashlib
from typing import Any, NamedTuple

from google.protobuf.message import Message

from mesh import (
    attachments,
    audit,
    contract,
    errors,
    events,
    flows,
    identity,
    metrics,
    privacy,
    resources,
    statements,
)
from mesh.store import Store
from village.type.v1 import step_pb2


class Acting(NamedTuple):
    """Who does what, as far as history, audit and events tell it. `reference`: how the caller stands in
    them."""

    caller: identity.Caller
    reference: str
    method: str
    now: datetime.datetime
    request_id: str = ""
    trace: str = ""
    purpose: str = ""
    asked: datetime.datetime | None = None
    """When the caller asked; long before `now` where the call was delivered late."""


@dataclasses.dataclass
class Held:
    """A resource in the hands of a call."""

    codec: resources.Codec
    row: resources.Row | None
    """As it was read; None for one that the call creates."""
    message: Any
    alarm: datetime.datetime | None = None
    version: int = 0
    digest: str = ""
    role: str = ""
    """The role that the caller acts in on it; empty when it was only looked at."""
    changed: bool = False
    deleted: bool = False
    shared: bool = False
    """Whether another call may have created it first."""
    attached: frozenset[str] = frozenset()
    """Digests of the files that it referred to when it was read."""


class Changes:
    """What one call changes, for one (region, domain)."""

    def __init__(self, store: Store, acting: Acting, region: str = "") -> None:
        self.store, self.acting = store, acting
        self.role = ""
        """The role that the caller was last permitted in."""
        self.held: dict[str, Held] = {}
        self._relied: dict[str, Held] = {}
        self._rows: list[statements.Write] = []
        self._region = region

    def take(self, held: Held, taken: flows.Taken, reason: str, more: dict[str, Any]) -> None:
        """What an action of a flow did."""
        step, acting = taken.step, self.acting
        step.number, step.reason, step.role = held.version + 1, reason, held.role or "SYS"
        step.actor, step.organisation = acting.reference, acting.caller.organisation
        step.deputy = acting.caller.deputy
        for key, value in more.items():
            setattr(step, key, value)
        held.alarm = taken.alarm
        metrics.steps.labels(held.codec.resource.singular, step.action).inc()
        self.announce(held, taken.event, step)
        self._rows.append(
            statements.Write(self.store.plumbing.step, self.store.step_values(held.message.name, step))
        )

    def announce(self, held: Held, cls: type[Message], step: step_pb2.Step | None = None) -> None:
        """Counts the version on, and adds the audit row and the event. The digest is over what is
        published, so that copies can be compared without personal data."""
        resource, message = held.codec.resource, held.message
        held.version, held.changed = held.version + 1, True
        message.etag = str(held.version)
        published = privacy.risen(message, resource.shape, resource.rises)
        before, raw = held.digest, published.SerializeToString(deterministic=True)
        held.digest = hashlib.sha256(raw).hexdigest()
        digest = self.audit(held, before)
        event: Any = cls()
        described = contract.read_event(cls)
        getattr(event, described.field).CopyFrom(published)
        if step is not None:
            event.step.CopyFrom(privacy.risen(step, resources.shape_of(step), resource.rises))
        grant = self.store.grants.of(resources.region_in(message.name))
        outbox = {
            "region": grant.region, "epoch": grant.epoch, "incarnation": grant.incarnation,
            "event_id": resources.uuid7(self.acting.now), "type": cls.DESCRIPTOR.full_name,
            "subject": events.subject(grant.region, grant.domain, resource.singular, described.verb),
            "name": message.name, "time": self.store.instant(self.acting.now), "trace": self.acting.trace,
            "audit_digest": digest, "payload": event.SerializeToString(deterministic=True),
        }  # fmt: skip
        self._rows.append(statements.Write(self.store.plumbing.outbox, outbox))

    def delete(self, held: Held, cls: type[Message]) -> None:
        """Takes a resource and its history away, and announces that."""
        message, held.deleted = held.message, True
        for field, _ in message.ListFields():
            if field.name != "name":
                message.ClearField(field.name)
        self.announce(held, cls)
        self._rows.append(statements.Write(self.store.plumbing.step, {"name": message.name}, "delete"))

    def audit(self, held: Held, before: str) -> str:
        """Adds an audit row about a resource; its digest. `before`: the resource's digest before."""
        acting, name = self.acting, held.message.name
        self._region = resources.region_in(name)
        row = {
            "region": self._region, "actor": acting.reference, "deputy": acting.caller.deputy,
            "role": held.role or self.role or "SYS", "organisation": acting.caller.organisation,
            "method": acting.method, "name": name, "before_digest": before, "after_digest": held.digest,
            "purpose": acting.purpose,
            "request_id": acting.request_id, "trace": acting.trace,
        }  # fmt: skip
        whole = audit.finished(row, acting.now, sqlite=self.store.sqlite)
        self._rows.append(statements.Write(self.store.plumbing.audit, whole))
        return str(whole["digest"])

    def rely_on(self, held: Held) -> None:
        """Makes the commit hold only if this resource is still as it was read."""
        if held.row is None:
            raise ValueError(f"{held.message.name} was created by this very call")
        self._relied[held.message.name] = held

    def forget_reasons(self, held: Held) -> None:
        """Empties what the steps of a resource say in somebody's words."""
        self.add(
            statements.Write(self.store.plumbing.step, {"name": held.message.name, "reason": ""}, "update")
        )

    def add(self, write: statements.Write) -> None:
        """Adds a row of the plumbing's own."""
        self._rows.append(write)

    def created(self) -> str:
        """Name of a resource that is created and that nobody else may have created, or empty."""
        found = (n for n, h in self.held.items() if h.row is None and h.changed and not h.shared)
        return next(found, "")

    def broken(self, check: str) -> errors.RuleBroken:
        """The refusal of what breaks a check: which records could, and the rule as the contract has it."""
        found = {
            f"{h.codec.table.name}_check_{n}": (rule, h.codec)
            for h in self.held.values()
            for n, rule in enumerate(h.codec.resource.checks)
        }
        rule, codec = found.get(check, (check, None))
        names = (name for name, h in self.held.items() if h.changed and h.codec is codec)
        return errors.RuleBroken(name=", ".join(names), rule=rule)

    def commit(self, *answers: statements.Write) -> statements.Commit | None:
        """Everything handed over, or None when nothing was. `answers` are kept for repetitions."""
        changed = [h for h in self.held.values() if h.changed]
        if not self._rows and not answers:
            return None
        regions_ = {resources.region_in(h.message.name) for h in changed} or {self._region}
        if len(regions_) != 1:
            raise ValueError(f"one commit is for one region, not {sorted(regions_)}")
        grant = self.store.grants.of(regions_.pop())
        commit = statements.Commit(grant.region, grant.domain, grant.epoch)
        for held in {**self._relied, **{h.message.name: h for h in changed}}.values():
            if held.row is not None:
                commit.held.append((held.codec.table, held.message.name, held.row.version))
        commit.writes = [self._write(h) for h in changed]
        for held in changed:
            commit.writes += self._attach(held)
        commit.writes += [*self._rows, *answers]
        return commit

    def _write(self, held: Held) -> statements.Write:
        message = held.message
        if held.deleted:
            return statements.Write(held.codec.table, {"name": message.name}, "delete")
        values = {
            "name": message.name, "version": held.version, "digest": held.digest,
            "alarm_time": self.store.instant(held.alarm) if held.alarm else None,
            **held.codec.encode(message),
        }  # fmt: skip
        if held.row is not None:
            return statements.Write(held.codec.table, values, "update")
        values |= {"region": resources.region_in(message.name), "owner": self.acting.reference}
        return statements.Write(held.codec.table, values)

    def _attach(self, held: Held) -> list[statements.Write]:
        """Notes which files a record refers to, which must be there, and no longer refers to."""
        now = attachments.referred(held.message, held.codec.resource.shape)
        name, attached = held.message.name, self.store.plumbing.attached
        fresh = [d for d in now if d not in held.attached]
        for path, said in (now[d] for d in fresh):
            if wrong := attachments.trouble(self.store, said):
                raise errors.Invalid(f"{contract.snake(held.codec.resource.singular)}.{path}", wrong)
        gone = [d for d in held.attached if d not in now]
        return [
            *(statements.Write(attached, {"sha256": d, "name": name}) for d in fresh),
            *(statements.Write(attached, {"sha256": d, "name": name}, "delete") for d in gone),
        ]
