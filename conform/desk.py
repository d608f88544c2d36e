"""Where the checks ask: calls as somebody, with an eye on what every answer must be like, whatever it was
asked for. Separate from the checks, each of which looks at what it asked for."""

import dataclasses
import datetime
import re
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2

from conform import declared, personal
from conform.callers import Caller, Callers
from conform.declared import Domain, Method
from conform.notes import Notes
from conform.requests import Maker
from conform.target import Answer, Target, shown
from village.mesh.v1 import error_reason_pb2

_SHARED = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()}  # noqa: SIM118
_WANTED = {
    "INVALID_ARGUMENT": error_details_pb2.BadRequest,
    "NOT_FOUND": error_details_pb2.ResourceInfo,
    "ALREADY_EXISTS": error_details_pb2.ResourceInfo,
    "FAILED_PRECONDITION": error_details_pb2.PreconditionFailure,
    "UNAVAILABLE": error_details_pb2.RetryInfo,
}
FAULTS = ("INTERNAL", "UNKNOWN", "UNIMPLEMENTED", "DATA_LOSS")
_BARE = (*FAULTS, "UNAUTHENTICATED", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED")
"""What may come without details: a gateway's own refusals, what the transport says, and faults."""
_AWAY = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED")


@dataclasses.dataclass(frozen=True)
class Sent:
    """What was sent, and by whom; as text where somebody has to read it."""

    request: Any
    caller: Caller | None

    def __str__(self) -> str:
        raw = self.request
        what = f"bytes {raw[:24].hex()}" if isinstance(raw, bytes) else shown(raw)
        return f"{what} (as {self.caller or 'nobody'})"


class Desk:
    """One run's way to the endpoint."""

    def __init__(self, target: Target, domain: Domain, notes: Notes, callers: Callers, maker: Maker) -> None:
        self._target, self.domain, self.notes, self.callers, self.maker = (
            target,
            domain,
            notes,
            callers,
            maker,
        )

    def ask(self, method: Method, request: Any, caller: Caller | None, **headers: str) -> Answer:
        """A call of a method with a message, or with bytes; `headers` are added to the caller's."""
        if caller is not None:
            headers = {"authorization": f"Bearer {caller.token}", **headers}
        raw = request if isinstance(request, bytes) else request.SerializeToString()
        answer = self._target.ask(method.path, raw, headers, up=method.up, down=method.down)
        sent = Sent(request, caller)
        if not answer.ok:
            self._look_at_refusal(method, answer, sent)
        elif not method.down:
            self._look_at_answer(method, answer, sent)
        self._look_at_headers(method, answer)
        return answer

    def expect(
        self, holds: bool, rule: str, method: Method, answer: Any, *,
        sent: Any = "", caller: Caller | None = None, at: str = "",
    ) -> bool:  # fmt: skip
        """Notes what came for a rule. Where the endpoint could not be asked, that it was not run."""
        where = f"{method.where} {at}".strip()
        if not holds and isinstance(answer, Answer) and answer.code in _AWAY:
            self.notes.not_run(rule, where, f"{answer.code}: {answer.text}")
            return False
        said = sent if isinstance(sent, str) else Sent(sent, caller)
        return self.notes.expect(holds, rule, where, sent=said, came=answer)

    def unable(self, rule: str, method: Method, answer: Answer, sent: Any, caller: Caller | None) -> None:
        """Notes that what a rule needs was refused: a fault, or for the person who runs this to mend."""
        if answer.code in FAULTS:
            self.notes.failed("fault", method.where, sent=Sent(sent, caller), came=str(answer))
        self.notes.not_run(rule, method.where, f"{method.name} was refused: {answer}")

    def got(self, method: Method, answer: Answer) -> Any:
        """An answer as a message; empty where it is none."""
        try:
            return method.response.FromString(answer.raw)
        except DecodeError:
            return method.response()

    def _look_at_refusal(self, method: Method, answer: Answer, sent: Sent) -> None:
        if answer.code in _BARE and not answer.details:
            return
        where, came, expect = method.where, answer, self.notes.expect
        info = answer.detail(error_details_pb2.ErrorInfo)
        told = info is not None and bool(info.reason) and bool(info.domain)
        if expect(told, "error-info", where, sent=sent, came=f"{came} without ErrorInfo, or an empty one"):
            own = info.domain == f"{self.domain.name}.village" and info.reason in (self.domain.reasons or ())
            known = own or (info.domain == "mesh.village" and info.reason in _SHARED)
            expect(known, "reason", where, sent=sent, came=f"{info.reason} of {info.domain}")
        wanted = _WANTED.get(answer.code)
        if wanted is not None:
            lacks = f"{came} without {wanted.DESCRIPTOR.name}"
            expect(answer.detail(wanted) is not None, "details", where, sent=sent, came=lacks)
        if answer.code not in FAULTS:
            text = answer.detail(error_details_pb2.LocalizedMessage)
            chinese = text is not None and re.search(r"[\u4e00-\u9fff]", text.message) is not None
            said = f"{came} with LocalizedMessage {text.message if text is not None else 'absent'!r}"
            expect(chinese, "chinese", where, sent=sent, came=said)

    def _look_at_answer(self, method: Method, answer: Answer, sent: Sent) -> None:
        try:
            message = method.response.FromString(answer.raw)
        except DecodeError:
            self.notes.failed("fault", method.where, sent=sent, came="OK with bytes that are no such message")
            return
        self.notes.passed("fault", method.where)
        for record, resource in records(message):
            if record.name or record is message:
                fits = resource.pattern.match(record.name) is not None
                came = f"{record.name!r}, not by {', '.join(resource.stated.pattern)}"
                self.notes.expect(fits, "names", method.where, sent=sent, came=came)
        if not method.access.reveals and any(True for _ in personal.fields(message)):
            shows = personal.unmasked(message)
            self.notes.expect(
                not shows, "masked", method.where, sent=sent, came=f"{', '.join(shows)} unmasked"
            )

    def _look_at_headers(self, method: Method, answer: Answer) -> None:
        told = dict(answer.headers)
        wrong, any_told = [], False
        if (node := told.get("x-village-served-by")) is not None:
            any_told = True
            if not re.fullmatch(r"[1-9][0-9]{5}", node):
                wrong.append(f"x-village-served-by: {node}")
        if (as_of := told.get("x-village-as-of")) is not None:
            any_told = True
            if not _past(as_of):
                wrong.append(f"x-village-as-of: {as_of}")
        if any_told:
            self.notes.expect(not wrong, "told", method.where, came=", ".join(wrong))


def _past(text: str) -> bool:
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    ahead = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)
    return when.tzinfo is not None and when < ahead


def records(message: Message) -> Iterator[tuple[Any, declared.Resource]]:
    """Every record in a message, at any depth."""
    resource = declared.resource_of(message.DESCRIPTOR)
    if resource is not None and "name" in message.DESCRIPTOR.fields_by_name:
        yield message, resource
    for field, held in message.ListFields():
        if field.message_type is not None and not field.message_type.full_name.startswith("google."):
            if field.message_type.GetOptions().map_entry:
                continue
            for part in held if field.is_repeated else (held,):
                yield from records(part)
