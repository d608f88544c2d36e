"""What has to be refused, and how: calls without a token, by those whom the contract does not let, from
elsewhere, with broken bytes or broken rules, about what is not there. Nothing of it changes anything where
the rules are kept; where they are not it may, so that without leave to write only methods that read are
asked."""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from conform import callers, requests
from conform.declared import Method
from conform.desk import Desk
from village.options.v1 import options_pb2

OF_EVERY_REFUSAL = ("error-info", "reason", "details", "chinese")
"""Rules that all refusals are held to, whatever they are for."""
RULES = ("token", "role", "permission-first", "region", "bytes", "validation", "not-found", *OF_EVERY_REFUSAL)
_BROKEN = b"\x0a\x7f"
"""A first field that says it is 127 bytes long, and ends."""
_NOT_UTF_8 = b"\x0a\x02\xff\xfe"


def check(desk: Desk, method: Method) -> None:
    """Asks a method for everything that it must refuse."""
    caller, why = desk.callers.may(method), ""
    try:
        request = desk.maker.good(method)
    except requests.CannotBeMade as fault:
        request, why = method.request(), str(fault)
        if method.place[0]:
            setattr(request, method.place[0], desk.maker.place(method))

    def wants(*rules: str) -> bool:
        return desk.notes.wants(*rules, *OF_EVERY_REFUSAL)

    if wants("token"):
        _strangers(desk, method, request)
    if wants("role", "permission-first"):
        _kept_out(desk, method, request, whole=not why)
    if wants("region"):
        _elsewhere(desk, method, request, caller)
    if caller is None:
        for rule in ("bytes", "validation"):
            desk.notes.not_run(rule, method.where, _nobody(method))
        return
    if wants("bytes"):
        _bytes(desk, method, caller)
    if wants("not-found"):
        _not_found(desk, method, caller)
    if wants("validation"):
        _validation(desk, method, request, caller, why)


def _nobody(method: Method) -> str:
    if method.of_nodes:
        return "only nodes of the mesh may call it"
    roles = sorted({options_pb2.Role.Name(r)[5:] for rule in method.access.allow for r in rule.roles})
    return f"no token of {' or '.join(roles) or 'any role'} reaches the region"


def _strangers(desk: Desk, method: Method, request: Any) -> None:
    if method.public:
        desk.notes.not_run("token", method.where, "it is for the public")
        return
    answer = desk.ask(method, request, None)
    desk.expect(answer.code == "UNAUTHENTICATED", "token", method, answer, sent=request)
    broken = desk.ask(method, request, None, authorization="Bearer none-such")
    desk.expect(
        broken.code == "UNAUTHENTICATED", "token", method, broken, sent="a token that is none", at="(no JWT)"
    )


def _kept_out(desk: Desk, method: Method, request: Any, *, whole: bool) -> None:
    """Who may not call it hears that, whatever he asks about. A request that is not as its contract wants
    may be refused for that."""
    where, caller = method.where, desk.callers.kept_out(method)
    if caller is None:
        why = "it is for the public" if method.public else "every token has a role that may call it"
        desk.notes.not_run("role", where, why)
        return
    about = method.place[0]
    rule = "role"
    if about and "/*/" in f"{method.place[1]}/".replace("regions/*/", "", 1):
        record = desk.maker.place(method)
        if requests.NOBODY in record:
            rule = "permission-first"
        else:
            _denied(desk, method, request, caller, rule="role", whole=whole)
            request = _about(
                request, about, desk.maker.place(method, of=requests.NOBODY, region=desk.maker.region)
            )
            rule = "permission-first"
    _denied(desk, method, request, caller, rule=rule, whole=whole)


def _about(request: Any, field: str, name: str) -> Any:
    other = type(request)()
    other.CopyFrom(request)
    setattr(other, field, name)
    return other


def _denied(desk: Desk, method: Method, request: Any, caller: Any, *, rule: str, whole: bool) -> None:
    answer = desk.ask(method, request, caller)
    if answer.code == "INVALID_ARGUMENT" and not whole:
        desk.notes.not_run(
            rule, method.where, "no request can be made that its contract takes; use --samples"
        )
        return
    desk.expect(answer.code == "PERMISSION_DENIED", rule, method, answer, sent=request, caller=caller)


def _elsewhere(desk: Desk, method: Method, request: Any, caller: Any) -> None:
    """Somebody of another region about this one; where there is no such token, the other way round."""
    where, about = method.where, method.place[0]
    if method.public or method.of_nodes or not about:
        desk.notes.not_run("region", where, "it is not about a region that a caller belongs to")
        return
    stranger = desk.callers.from_afar(method)
    if stranger is None:
        if caller is None:
            desk.notes.not_run("region", where, _nobody(method))
            return
        stranger = caller
        far = callers.elsewhere(desk.maker.region)
        request = _about(request, about, desk.maker.place(method, region=far))
    answer = desk.ask(method, request, stranger)
    if answer.reason in ("NOT_OWNED_HERE", "INVALID"):
        why = (
            "the other region is another owner's"
            if answer.reason == "NOT_OWNED_HERE"
            else "the request is refused"
        )
        desk.notes.not_run("region", where, f"{why}; add a token of another region")
        return
    desk.expect(answer.code == "PERMISSION_DENIED", "region", method, answer, sent=request, caller=stranger)


def _bytes(desk: Desk, method: Method, caller: Any) -> None:
    tried = [("(broken off)", _BROKEN)]
    first = method.descriptor.input_type.fields_by_number.get(1)
    if first is not None and first.type == FieldDescriptor.TYPE_STRING:
        tried.append(("(not UTF-8)", _NOT_UTF_8))
    for at, raw in tried:
        answer = desk.ask(method, raw, caller)
        desk.expect(
            answer.code == "INVALID_ARGUMENT", "bytes", method, answer, sent=f"bytes {raw.hex()}", at=at
        )


def _not_found(desk: Desk, method: Method, caller: Any) -> None:
    if not method.gets:
        return
    request = method.request()
    request.name = desk.maker.place(method, of=requests.NOBODY, region=desk.maker.region)
    if "*" in method.place[1] and requests.NOBODY not in request.name:
        desk.notes.not_run("not-found", method.where, "there is one record of it only")
        return
    if desk.maker.wrong(request):
        desk.notes.not_run("not-found", method.where, f"{request.name} is no name that its contract takes")
        return
    answer = desk.ask(method, request, caller)
    desk.expect(answer.code == "NOT_FOUND", "not-found", method, answer, sent=request, caller=caller)


def _validation(desk: Desk, method: Method, request: Any, caller: Any, why: str) -> None:
    """Each rule of each field broken once. The refusal has to name the field; of several that are broken
    by the same change, one of them."""
    if why:
        desk.notes.not_run("validation", method.where, why)
        return
    if method.up:
        desk.notes.not_run("validation", method.where, "it takes a stream")
        return
    for path, rule, changed in desk.maker.broken(method, request):
        if path == "page_size":
            continue  # which has a rule of its own
        answer = desk.ask(method, changed, caller)
        named = {p for p, _, _ in desk.maker.wrong(changed)}
        right = answer.code == "INVALID_ARGUMENT" and not named.isdisjoint(answer.fields)
        at = f"{path or '(whole)'} ({rule})"
        desk.expect(right, "validation", method, answer, sent=changed, caller=caller, at=at)
