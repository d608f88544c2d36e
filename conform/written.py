"""What writes: creating, repeating, what a caller may not set, and etags. Records stay behind, so that
this is done on leave only; what is changed is what the run itself created."""

import contextlib
import uuid
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import FieldDescriptor

from conform import declared, requests
from conform.callers import Caller
from conform.declared import Method
from conform.desk import Desk
from conform.target import Answer

_RULES = ("create", "output-only", "request-id", "request-id-reuse")
SENTINEL = "conform-set-by-caller"
OWNER = {"x-village-read": "owner"}
"""What was just written is asked of who wrote it: a copy may not have it yet."""
MORE = 2
"""How many more records are made of what is listed, so that there is an order to be kept."""
PAGES = 10
"""How many pages of 500 are looked through for a second record."""
TRIES = 2
"""On how many records a verb is tried that the first one's state does not allow."""
STALE = ("none-such", "999999999")
"""Etags that no record has."""


class Writer:
    """Creates records of a domain, and tries what can be tried on them."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._notes = desk, desk.notes
        self.created: dict[str, list[Any]] = {}
        """Records of the run, as they were answered, by the word for many of them."""

    def create(self) -> None:
        """Creates what can be: again and again, because one kind may need another to be there."""
        left = [m for m in self._desk.domain.methods if m.creates]
        refused: dict[Method, Any] = {}
        while left:
            again = []
            for method in left:
                outcome = self._create(method)
                if outcome is not None:
                    refused[method] = outcome
                    again.append(method)
            if len(again) == len(left):
                break
            left = again
        for method in left:
            for rule in _RULES:
                self._refused(rule, method, refused[method])

    def _refused(self, rule: str, method: Method, outcome: Any) -> None:
        if isinstance(outcome, str):
            self._notes.not_run(rule, method.where, outcome)
        else:
            answer, request, caller = outcome
            self._desk.unable(rule, method, answer, request, caller)

    def _create(self, method: Method) -> Any:
        """None when a record was made, else what stood in the way."""
        caller, resource = self._desk.callers.may(method), method.answers
        if caller is None:
            return "no token may call it"
        assert resource is not None
        if not resource.written_at(self._desk.maker.region):
            return "it is not written under a region of that level"
        last: Any = None
        for more in (True, False):
            try:
                request = self._made(method, more=more)
            except requests.CannotBeMade as fault:
                last = str(fault)
                continue
            answer = self._desk.ask(method, request, caller)
            if answer.ok:
                self._look_at(method, caller, request, answer)
                return None
            last = (answer, request, caller)
        return last

    def _made(self, method: Method, *, more: bool) -> Any:
        request = self._desk.maker.good(method, more=more)
        if "request_id" in method.takes:
            request.request_id = str(uuid.uuid4())
        return request

    def _look_at(self, method: Method, caller: Caller, request: Any, answer: Answer) -> None:
        resource, record = method.answers, self._desk.got(method, answer)
        assert resource is not None
        plural = str(resource.stated.plural)
        self.created.setdefault(plural, []).append(record)
        if self._stands(method, caller, request, record, plural):
            for key in (resource.type, plural):
                self._desk.maker.known[key] = record.name
        if "request_id" in method.takes:
            self._repeat(method, caller, request, answer, plural)
        self._set_by_caller(method, caller, plural)
        if self._notes.wants("page-walk") and self._method_of_list(plural) is not None:
            for _ in range(MORE):
                with contextlib.suppress(requests.CannotBeMade):
                    self._desk.ask(method, self._made(method, more=False), caller)

    def _stands(self, method: Method, caller: Caller, request: Any, record: Any, plural: str) -> bool:
        """Whether a record lies where it was put, and can be read again."""
        under = record.name.startswith(f"{request.parent}/")
        came = f"{record.name!r} under {request.parent!r}"
        if not self._desk.expect(under, "create", method, came, sent=request, caller=caller):
            return False
        get = self._method_of(plural, lambda m: m.gets)
        reader = self._desk.callers.may(get) if get is not None else None
        if get is None or reader is None:
            return True
        asked = get.request()
        asked.name = record.name
        answer = self._desk.ask(get, asked, reader, **OWNER)
        same = answer.ok and self._desk.got(get, answer).name == record.name
        came = str(answer) if not answer.ok else f"a record named {self._desk.got(get, answer).name!r}"
        return self._desk.expect(
            same, "create", method, came, sent=f"{get.name} {record.name}", at="(read again)"
        )

    def _method_of(self, plural: str, wanted: Any) -> Method | None:
        return next(
            (
                m for m in self._desk.domain.methods
                if wanted(m) and m.place[1].split("/")[-2:-1] == [plural]
            ), None,
        )  # fmt: skip

    def _repeat(self, method: Method, caller: Caller, request: Any, first: Answer, plural: str) -> None:
        before = self._names(plural)
        again = self._desk.ask(method, request, caller)
        same = again.ok and self._desk.got(method, again) == self._desk.got(method, first)
        came = str(again) if not again.ok else f"another answer: {self._desk.got(method, again).name}"
        more = self._twins(plural, before, self._desk.got(method, first)) if same else []
        if more:
            came = f"the same answer, and {', '.join(more)} beside it"
        self._desk.expect(same and not more, "request-id", method, came, sent=request, caller=caller)
        other = _another(self._desk.maker, request, method)
        if other is None:
            self._notes.not_run("request-id-reuse", method.where, "there is no field to send otherwise")
            return
        answer = self._desk.ask(method, other, caller)
        right = answer.code == "INVALID_ARGUMENT" and "request_id" in answer.fields
        self._desk.expect(right, "request-id-reuse", method, answer, sent=other, caller=caller)

    def _names(self, plural: str) -> dict[str, Any] | None:
        """The records that a List gives in a few pages; None when that is not the whole list."""
        listing = self._method_of_list(plural)
        caller = self._desk.callers.may(listing) if listing is not None else None
        if listing is None or caller is None or listing.listed is None or not listing.pages:
            return None
        request = listing.request(parent=f"regions/{self._desk.maker.region}", page_size=500)
        found: dict[str, Any] = {}
        for _ in range(PAGES):
            answer = self._desk.ask(listing, request, caller, **OWNER)
            message: Any = self._desk.got(listing, answer)
            if not answer.ok:
                return None
            found.update((record.name, record) for record in getattr(message, listing.listed.name))
            request.page_token = message.next_page_token
            if not request.page_token:
                return found
        return None

    def _method_of_list(self, plural: str) -> Method | None:
        return next(
            (
                m for m in self._desk.domain.methods
                if m.lists and m.place == ("parent", "regions/*")
                and (of := m.lists_what) is not None and of.stated.plural == plural
            ), None,
        )  # fmt: skip

    def _twins(self, plural: str, before: dict[str, Any] | None, record: Any) -> list[str]:
        """Records that came since, and hold what this one holds."""
        after = self._names(plural)
        if before is None or after is None:
            return []
        others = after.keys() - before.keys() - {record.name}
        return sorted(name for name in others if _settable(after[name]) == _settable(record))

    def _set_by_caller(self, method: Method, caller: Caller, plural: str) -> None:
        """Another record, with every field set that is not the caller's."""
        try:
            request = self._made(method, more=False)
        except requests.CannotBeMade as fault:
            self._notes.not_run("output-only", method.where, str(fault))
            return
        assert method.given is not None
        given = getattr(request, method.given.name)
        sent = _fill_output_only(given)
        answer = self._desk.ask(method, request, caller)
        if not answer.ok:
            if answer.code == "INVALID_ARGUMENT" and set(answer.fields) & {
                f"{method.given.name}.{f}" for f in sent
            }:
                self._desk.expect(False, "output-only", method, answer, sent=request, caller=caller)
            else:
                self._desk.unable("output-only", method, answer, request, caller)
            return
        record = self._desk.got(method, answer)
        self.created[plural].append(record)
        taken = [name for name in sent if getattr(record, name) == getattr(given, name)]
        came = f"taken over: {', '.join(taken)}"
        self._desk.expect(not taken, "output-only", method, came, sent=request, caller=caller)

    def etags(self) -> None:
        """An etag of nobody's, to every method that takes one, about a record of the run."""
        for method in self._desk.domain.methods:
            if method.reads or "etag" not in method.takes or "name" not in method.takes:
                continue
            self._etag(method)

    def _about_ours(self, rule: str, method: Method) -> tuple[Caller, list[Any], Any] | None:
        """Who may call a method, the records of the run that it can be about, and a request that names none
        yet; None, and noted, where one of them is missing."""
        where, caller = method.where, self._desk.callers.may(method)
        made = self.created.get((method.place[1].split("/")[-2:-1] or [""])[0], [])
        if caller is None or not made:
            why = "no token may call it" if caller is None else "no record of its kind could be created"
            self._notes.not_run(rule, where, why)
            return None
        try:
            return caller, made, self._made(method, more=False)
        except requests.CannotBeMade as fault:
            self._notes.not_run(rule, where, str(fault))
            return None

    def _etag(self, method: Method) -> None:
        if (found := self._about_ours("etag", method)) is None:
            return
        caller, made, request = found
        request.name = made[0].name
        for stale in STALE:
            request.etag = stale
            if not any(path == "etag" for path, _, _ in self._desk.maker.wrong(request)):
                break
        answer = self._desk.ask(method, request, caller)
        ignored = answer.ok or (answer.code == "INVALID_ARGUMENT" and "etag" in answer.fields)
        if answer.code == "ABORTED" or ignored:
            self._desk.expect(not ignored, "etag", method, answer, sent=request, caller=caller)
        else:
            self._desk.unable("etag", method, answer, request, caller)

    def verbs(self) -> None:
        """Every verb and change, on a record of the run, and the same again: its state has moved by then."""
        for method in self._desk.domain.methods:
            if method.reads or method.creates or not {"request_id", "name"} <= set(method.takes):
                continue
            if method.up or method.down or method.of_nodes:
                continue
            self._verb(method)

    def _verb(self, method: Method) -> None:
        if (found := self._about_ours("request-id", method)) is None:
            return
        caller, made, request = found
        for record in made[:TRIES]:
            request.name = record.name
            first = self._desk.ask(method, request, caller)
            if first.ok:
                break
        if not first.ok:
            self._desk.unable("request-id", method, first, request, caller)
            return
        again = self._desk.ask(method, request, caller)
        same = again.ok and self._desk.got(method, again) == self._desk.got(method, first)
        came = "another answer" if again.ok else str(again)
        self._desk.expect(same, "request-id", method, came, sent=request, caller=caller)


def _settable(record: Any) -> Any:
    """A record without what its service sets."""
    bare = type(record)()
    bare.CopyFrom(record)
    for field in record.DESCRIPTOR.fields:
        if field.name == "name" or declared.OUTPUT_ONLY in _behaviors(field):
            bare.ClearField(field.name)
    return bare


def _behaviors(field: Any) -> Any:
    return field.GetOptions().Extensions[field_behavior_pb2.field_behavior]


def _fill_output_only(record: Any) -> list[str]:
    """Sets what a caller may not: text, and the state; the names of the fields."""
    filled = []
    for field in record.DESCRIPTOR.fields:
        if field.is_repeated or not (field.name == "name" or declared.OUTPUT_ONLY in _behaviors(field)):
            continue
        if field.type == FieldDescriptor.TYPE_STRING:
            setattr(record, field.name, SENTINEL)
        elif field.enum_type is not None and field.name == "state":
            setattr(record, field.name, max(v.number for v in field.enum_type.values))
        else:
            continue
        filled.append(field.name)
    return filled


def _another(maker: requests.Maker, request: Any, method: Method) -> Any:
    """The same request with one field of what is given otherwise, and still as its contract wants; None
    where there is none."""
    assert method.given is not None
    for field, value in getattr(request, method.given.name).ListFields():
        other = type(request)()
        other.CopyFrom(request)
        given = getattr(other, method.given.name)
        if field.is_repeated:
            continue
        if field.type == FieldDescriptor.TYPE_STRING:
            setattr(given, field.name, f"{value}改" if len(value) < 8 else f"{value[:-1]}改")
        elif field.enum_type is not None:
            continue
        elif field.message_type is not None and field.message_type.full_name == "google.protobuf.Timestamp":
            getattr(given, field.name).seconds += 1
        elif field.cpp_type not in (FieldDescriptor.CPPTYPE_BOOL, FieldDescriptor.CPPTYPE_MESSAGE):
            setattr(given, field.name, value + 1)
        else:
            continue
        if not maker.wrong(other):
            return other
    return None
