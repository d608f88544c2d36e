"""A good server, and servers that break one rule each: every one is caught, and by that rule alone."""

import pathlib
import random
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from google.rpc import error_details_pb2, status_pb2

from conform import notes, paged, run, target
from mesh import errors, statuses
from tests.conform import broken
from tests.conform.broken import Call, Reply, honest
from tests.conform.served import Served
from tests.county import REGION


def checked(served: Served, folder: pathlib.Path, alter: broken.Alter = honest, **plan: Any) -> notes.Notes:
    """What comes of a run against a broken server."""
    server = broken.Broken(folder, served.address, alter)
    try:
        return run.run(
            run.Plan(
                target=target.Target(server.address), region=REGION, tokens=served.tokens, write=True, **plan
            )
        )
    finally:
        server.close()


def token(served: Served, role: str, region: str = REGION) -> str:
    (found,) = (c.token for c in served.tokens if c.roles == {role} and c.region == region)
    return f"Bearer {found}"


def refusal(fault: errors.Refusal) -> Reply:
    return Reply(status=statuses.status(fault))


# servers that break a rule


def sorts_at_random(call: Call) -> Reply:
    reply = call.on()
    if call.name != "ListReports" or reply.status is not None:
        return reply
    answer = call.message(reply)
    reports = list(answer.reports)
    random.shuffle(reports)
    del answer.reports[:]
    answer.reports.extend(reports)
    return Reply(answer.SerializeToString())


def repeats_a_record(call: Call) -> Reply:
    """Each page but the first begins with the first record again, in the place of its own."""
    reply = call.on()
    if call.name != "ListReports" or reply.status is not None or not call.request.page_token:
        return reply
    first = call.request
    first.page_token = ""
    answer = call.message(reply)
    answer.reports[0].CopyFrom(call.message(call.on(first)).reports[0])
    return Reply(answer.SerializeToString())


def on_list(change: Callable[[Any, Reply], bool]) -> broken.Alter:
    """A server that takes what it should refuse in lists: `change` makes it harmless, where it does."""

    def alter(call: Call) -> Reply:
        reply = call.on()
        if call.name != "ListReports":
            return reply
        try:
            request = call.request
        except Exception:
            return reply
        return call.on(request) if change(request, reply) else reply

    return alter


def clears(field: str) -> broken.Alter:
    def change(request: Any, reply: Reply) -> bool:
        wrong = reply.named == [field] and len(getattr(request, field)) < 100
        if wrong:
            request.ClearField(field)
        return wrong

    return on_list(change)


def takes_negative_sizes(request: Any, _reply: Reply) -> bool:
    negative = request.page_size < 0
    request.page_size = max(request.page_size, 0)
    return bool(negative)


def refuses_large_pages(call: Call) -> Reply:
    if call.name == "ListReports" and b"\xff\xff\xff\xff\x07" in call.raw:
        return refusal(errors.Invalid("page_size", "is too large"))
    return call.on()


def takes_any_token(request: Any, reply: Reply) -> bool:
    made_up = reply.named == ["page_token"] and request.page_token == paged.MADE_UP
    if made_up:
        request.page_token = ""
    return made_up


def forgets_the_query(request: Any, reply: Reply) -> bool:
    other = reply.named == ["page_token"] and bool(request.order_by)
    if other:
        request.order_by = ""
    return other


def faults_on_broken_bytes(call: Call) -> Reply:
    reply = call.on()
    if reply.status is not None and reply.status.code == 3:
        try:
            assert call.request is not None
        except Exception:
            return Reply(status=status_pb2.Status(code=13, message="Exception deserializing request!"))
    return reply


def refuses(change: Callable[[Reply], Any], code: int = 0) -> broken.Alter:
    """A server whose refusals, or those with one code, are otherwise."""

    def alter(call: Call) -> Reply:
        reply = call.on()
        if reply.status is not None and code in (0, reply.status.code):
            change(reply)
        return reply

    return alter


def looks_before_it_permits(call: Call) -> Reply:
    reply = call.on()
    if call.name == "GetReport" and reply.status is not None and reply.status.code == 7:
        name = call.request.name
        if name.endswith("-4000-8000-000000000000") and "/360423/" in name:
            return refusal(errors.NotFound(name=name))
    return reply


def lets_anybody(served: Served, name: str, code: int, role: str = "KA") -> broken.Alter:
    """A server that has a method done for whom it should refuse with a code."""

    def alter(call: Call) -> Reply:
        reply = call.on()
        if call.name == name and reply.status is not None and reply.status.code == code:
            return call.on(authorization=token(served, role))
        return reply

    return alter


def ignores_roles(served: Served) -> broken.Alter:
    lets = lets_anybody(served, "ComputeReportFigures", 7)
    elsewhere = token(served, "KA", "360424")
    return lambda call: honest(call) if call.headers.get("authorization") == elsewhere else lets(call)


def ignores_regions(served: Served) -> broken.Alter:
    def alter(call: Call) -> Reply:
        ours = call.headers.get("authorization") == token(served, "KA", "360424")
        return call.on(authorization=token(served, "KA")) if ours else call.on()

    return alter


def ignores_etags(call: Call) -> Reply:
    reply = call.on()
    if reply.status is not None and reply.status.code == 10:
        request = call.request
        request.etag = ""
        return call.on(request)
    return reply


def forgets_what_it_answered(name: str = "FileReport") -> broken.Alter:
    """A server that does a repeated request again."""
    seen = set[bytes]()

    def alter(call: Call) -> Reply:
        if call.name != name or call.raw not in seen:
            reply = call.on()
            if reply.status is None:
                seen.add(call.raw)
            return reply
        request = call.request
        request.request_id = str(uuid.uuid4())
        return call.on(request)

    return alter


def makes_a_second_one_in_secret() -> broken.Alter:
    """A server that answers a repeated request with the first answer, and makes a second record all the
    same."""
    again = forgets_what_it_answered()

    def alter(call: Call) -> Reply:
        again(call)
        return call.on()

    return alter


def answers_another_request(call: Call) -> Reply:
    reply = call.on()
    if reply.named == ["request_id"] and "used" in reply.status.message:  # type: ignore[union-attr]
        request = call.request
        request.request_id = str(uuid.uuid4())
        return call.on(request)
    return reply


def skips_a_field(call: Call) -> Reply:
    reply = call.on()
    if call.name == "FileReport" and reply.named == ["report.division"]:
        request = call.request
        request.report.division = "360423100201"
        return call.on(request)
    return reply


def names_no_path(call: Call) -> Reply:
    reply = call.on()
    if reply.named == ["report.division"]:
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field="division", description="wrong")
        reply.put(bad)
    return reply


def on_record(name: str, change: Callable[[Any, Call], Any]) -> broken.Alter:
    """A server whose answer to one method is otherwise."""

    def alter(call: Call) -> Reply:
        reply = call.on()
        if call.name != name or reply.status is not None:
            return reply
        answer = call.message(reply)
        change(answer, call)
        return Reply(answer.SerializeToString())

    return alter


def names_badly(answer: Any, _call: Call) -> None:
    for report in answer.reports:
        report.name = report.name.replace("/reports/", "/report/")


def shows_the_phone(answer: Any, _call: Call) -> None:
    if answer.contact.phone:
        answer.contact.phone = "13912348765"


def takes_a_state(answer: Any, call: Call) -> None:
    answer.state = call.request.report.state or answer.state


def lies_elsewhere(answer: Any, _call: Call) -> None:
    answer.name = answer.name.replace("360423", "360424")


def has_no_figures(call: Call) -> Reply:
    reply = call.on()
    if call.name == "ComputeReportFigures" and reply.status is None:
        return Reply(status=status_pb2.Status(code=2, message="Exception calling application: 'NoneType'"))
    return reply


def tells_a_wrong_time(call: Call) -> Reply:
    reply = call.on()
    reply.headers = (("x-village-served-by", REGION), ("x-village-as-of", "yesterday"))
    return reply


def answers_nothing(call: Call) -> Reply:
    reply = call.on()
    return (
        Reply() if call.name == "GetReport" and reply.status is not None and reply.status.code == 5 else reply
    )


def says_aborted(call: Call) -> Reply:
    reply = call.on()
    if call.name == "GetReport" and reply.status is not None and reply.status.code == 5:
        reply.status.code = 10
    return reply


def without(cls: Any) -> Callable[[Reply], Any]:
    return lambda reply: reply.drop(cls)


def unknown_reason(reply: Reply) -> Any:
    return reply.put(error_details_pb2.ErrorInfo(reason="PAPER_IS_OUT", domain="habitat.village"))


def shared_reason_as_own(reply: Reply) -> Any:
    return reply.put(error_details_pb2.ErrorInfo(reason="FORBIDDEN", domain="habitat.village"))


def in_english(reply: Reply) -> Any:
    return reply.put(error_details_pb2.LocalizedMessage(locale="en", message="no"))


FAULTS: dict[str, tuple[str, Any]] = {
    "sorts at random": ("page-walk", sorts_at_random),
    "repeats a record across pages": ("page-walk", repeats_a_record),
    "takes a negative page_size": ("page-size", on_list(takes_negative_sizes)),
    "refuses a large page_size": ("page-size", refuses_large_pages),
    "takes any page_token": ("page-token", on_list(takes_any_token)),
    "takes a page_token for another query": ("page-binding", on_list(forgets_the_query)),
    "takes filters that it cannot read": ("filter", clears("filter")),
    "takes orders by no field": ("order-by", clears("order_by")),
    "INTERNAL on broken bytes": ("bytes", faults_on_broken_bytes),
    "refuses without ErrorInfo": ("error-info", refuses(without(error_details_pb2.ErrorInfo))),
    "refuses for a reason of no enum": ("reason", refuses(unknown_reason, code=3)),
    "gives a shared reason its own domain": ("reason", refuses(shared_reason_as_own, code=7)),
    "NOT_FOUND without ResourceInfo": ("details", refuses(without(error_details_pb2.ResourceInfo), code=5)),
    "refuses in English only": ("chinese", refuses(in_english)),
    "refuses without a text for people": ("chinese", refuses(without(error_details_pb2.LocalizedMessage))),
    "existence before permission": ("permission-first", looks_before_it_permits),
    "lets any role": ("role", ignores_roles),
    "lets those of another county": ("region", ignores_regions),
    "lets strangers": ("token", lambda served: lets_anybody(served, "ListReports", 16)),
    "ignores etags": ("etag", ignores_etags),
    "makes a second record of a repeated request": ("request-id", forgets_what_it_answered()),
    "takes a verb twice": ("request-id", forgets_what_it_answered("AcceptReport")),
    "makes a second record in secret": ("request-id", makes_a_second_one_in_secret()),
    "takes a request_id for another request": ("request-id-reuse", answers_another_request),
    "does not validate one field": ("validation", skips_a_field),
    "names a wrong field without its path": ("validation", names_no_path),
    "names not by the pattern": ("names", on_record("ListReports", names_badly)),
    "shows a telephone number": ("masked", on_record("GetReport", shows_the_phone)),
    "takes over a state": ("output-only", on_record("FileReport", takes_a_state)),
    "creates under another parent": ("create", on_record("FileReport", lies_elsewhere)),
    "UNKNOWN for a good request": ("fault", has_no_figures),
    "tells no time": ("told", tells_a_wrong_time),
    "says ABORTED for what is not there": ("not-found", says_aborted),
}
"""What a server does wrong → the rule that finds it, and the server; a function of one argument named
`served` makes it."""


def test_a_good_server_passes(served: Served, tmp_path: pathlib.Path) -> None:
    found = checked(served, tmp_path)
    assert found.of(notes.FAILED) == []
    wanted = {rule for rule, _ in FAULTS.values()} - {"told"}
    passed = {note.rule.name for note in found.of(notes.PASSED)}
    assert wanted <= passed, "each is seen to pass where nothing is broken"


@pytest.mark.parametrize("what", FAULTS)
def test_is_caught_by_its_rule_alone(served: Served, tmp_path: pathlib.Path, what: str) -> None:
    rule, alter = FAULTS[what]
    names = alter.__code__.co_varnames[: alter.__code__.co_argcount]
    found = checked(served, tmp_path, alter(served) if names == ("served",) else alter)
    failed = found.of(notes.FAILED)
    assert {note.rule.name for note in failed} == {rule}, "\n".join(map(str, failed))
    text = str(failed[0])
    assert failed[0].where in text
    assert failed[0].rule.mend in text


def test_a_server_that_is_away_is_no_finding() -> None:
    with pytest.raises(target.Unreachable):
        run.run(run.Plan(target=target.Target("unix:/nowhere/at/all"), region=REGION))
