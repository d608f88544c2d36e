"""A run: an endpoint, whose domains are read and checked one after the other."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from conform import announced, callers, declared, paged, refused, requests, rules, stated, written
from conform.desk import Desk
from conform.notes import Notes
from conform.target import Target

NEEDS_WRITE = "it would write; allow that with --write"
NEEDS_TOKENS = "no token was given"
NEEDS_BROKER = "no broker was given; name it with --nats"


class CannotRun(Exception):  # noqa: N818
    """There is nothing to check; the text says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be checked, and with what. `samples`: requests by method, in JSON, where the contract
    does not say all that a service wants."""

    target: Target
    region: str
    tokens: Sequence[callers.Caller] = ()
    domains: Sequence[str] = ()
    write: bool = False
    nats: str = ""
    only: frozenset[str] = frozenset()
    samples: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def region_of(tokens: Iterable[callers.Caller]) -> str:
    """The region that the tokens are of. CannotRun when they are of several, or there are none."""
    found = sorted({caller.region[:6] for caller in tokens})
    if len(found) == 1:
        return found[0]
    why = f"the tokens are of {', '.join(found)}" if found else "there are no tokens"
    raise CannotRun(f"{why}: name the region with --region")


def run(plan: Plan) -> Notes:
    """Checks everything that the plan allows. CannotRun, or Unreachable, when the endpoint shows no
    domain."""
    found = list(plan.domains) or declared.domains(plan.target.services)
    if not found:
        listed = ", ".join(plan.target.services) or "nothing"
        raise CannotRun(
            f"{plan.target.address} shows no domain village.<domain>.v1 by reflection; it lists {listed}"
        )
    notes = Notes(plan.only)
    for name in found:
        domain = declared.read(plan.target, name)
        if not domain.methods and not domain.missing:
            raise CannotRun(f"{plan.target.address} lists no service of village.{name}.v1")
        stated.check(domain, notes)
        _ask(plan, domain, notes)
    return notes


def _ask(plan: Plan, domain: declared.Domain, notes: Notes) -> None:
    """The rules that need calls."""
    known: dict[str, str] = {}
    who = callers.Callers(plan.tokens, plan.region)
    maker = requests.Maker(plan.region, who.division, known, plan.samples)
    desk = Desk(plan.target, domain, notes, who, maker)
    _introduce(desk)
    if not plan.tokens:
        _skip(notes, domain, NEEDS_TOKENS, rules.READS)
    writer = written.Writer(desk)
    heard: list[announced.Heard] = []
    if plan.tokens and plan.write:
        if plan.nats:
            with announced.Listener(plan.nats, plan.region, domain.name) as listener:
                _write(writer, notes)
                wanted = announced.expected(domain, writer.created)
                listener.wait(wanted)
                heard = list(listener.heard)
            announced.check(domain, notes, heard, wanted)
        else:
            _write(writer, notes)
    else:
        _skip(notes, domain, NEEDS_WRITE if plan.tokens else NEEDS_TOKENS, rules.WRITES)
    if not (plan.tokens and plan.write and plan.nats):
        why = NEEDS_BROKER if plan.write else NEEDS_WRITE
        _skip(notes, domain, why if plan.tokens else NEEDS_TOKENS, rules.EVENTS)
    if plan.tokens and notes.wants(*(rule.name for rule in rules.RULES if rule.needs == rules.READS)):
        _look_up(desk, known)
        _read(plan, desk)


def _introduce(desk: Desk) -> None:
    """CannotRun when the endpoint does not know who a token is of: all that follows would be wrong."""
    asked = next((m for m in desk.domain.methods if m.reads and not (m.public or m.of_nodes or m.up)), None)
    for caller in desk.callers.all if asked is not None else ():
        assert asked is not None
        answer = desk.ask(asked, asked.request(), caller)
        if answer.code == "UNAUTHENTICATED":
            raise CannotRun(f"the endpoint does not take the token of {caller}: {answer.text}")


def _write(writer: written.Writer, notes: Notes) -> None:
    writer.create()
    if notes.wants("etag"):
        writer.etags()
    if notes.wants("request-id"):
        writer.verbs()


def _skip(notes: Notes, domain: declared.Domain, why: str, needs: str) -> None:
    for rule in rules.RULES:
        if rule.needs == needs:
            notes.not_run(rule.name, domain.package, why)


def _look_up(desk: Desk, known: dict[str, str]) -> None:
    """Names of records that are there, for what is asked about one; those of the run count first."""
    for method in desk.domain.methods:
        resource, caller = method.lists_what, desk.callers.may(method)
        if not method.lists or resource is None or caller is None or resource.type in known:
            continue
        try:
            request = desk.maker.good(method)
        except requests.CannotBeMade:
            continue
        answer = desk.ask(method, request, caller)
        assert method.listed is not None
        records = getattr(desk.got(method, answer), method.listed.name)
        for record in list(records)[:1] if answer.ok else ():
            if record.name.startswith(f"regions/{desk.maker.region}/"):
                known[resource.type] = known[str(resource.stated.plural)] = record.name


def _read(plan: Plan, desk: Desk) -> None:
    """Methods that read; others, too, where it may be written, because who does not refuse does."""
    for method in desk.domain.methods:
        if not method.access.allow:
            desk.notes.not_run("role", method.where, "its contract does not say who may call it")
            continue
        if not method.reads and not plan.write:
            for rule in ("token", "role", "region", "bytes", "validation"):
                desk.notes.not_run(rule, method.where, NEEDS_WRITE)
            continue
        if desk.notes.wants(*refused.RULES):
            refused.check(desk, method)
        if method.lists:
            if desk.notes.wants(*paged.RULES, "names", "masked", "told", "fault"):
                paged.check(desk, method)
        elif method.reads and not method.down and not method.up:
            _good(desk, method)


def _good(desk: Desk, method: declared.Method) -> None:
    """One good call, for the sake of what its answer is like."""
    caller = desk.callers.may(method)
    if caller is None:
        return
    try:
        request = desk.maker.good(method)
    except requests.CannotBeMade:
        return
    if method.place[0] and requests.NOBODY in getattr(request, method.place[0]):
        return
    answer = desk.ask(method, request, caller)
    if not answer.ok:
        desk.unable("names", method, answer, request, caller)
