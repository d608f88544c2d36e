"""Lists: pages, filters and orders. They are asked as the endpoint stands, and change nothing."""

from collections import Counter
from typing import Any

from conform import requests
from conform.callers import Caller
from conform.declared import Method
from conform.desk import Desk
from conform.target import Answer
from village.options.v1 import options_pb2

MADE_UP = "bm90LWEtdG9rZW4"
NO_FIELD = "no_such_field_of_it"
LARGEST = 2**31 - 1
MOST_WALKED = 2000
TRIES = 2
RULES = ("page-size", "page-token", "page-binding", "page-walk", "filter", "order-by")


def check(desk: Desk, method: Method) -> None:
    """Asks a List for its pages, and for what it must refuse."""
    caller = desk.callers.may(method)
    try:
        request = desk.maker.good(method)
    except requests.CannotBeMade as fault:
        _skip(desk, method, str(fault))
        return
    if caller is None:
        _skip(desk, method, "no token may call it")
        return
    if method.place[0] and requests.NOBODY in getattr(request, method.place[0]):
        _skip(desk, method, "there is no record to list it of")
        return
    answer = desk.ask(method, request, caller)
    if not answer.ok:
        for rule in RULES:
            desk.unable(rule, method, answer, request, caller)
        return
    List(desk, method, caller, request).check()


def _skip(desk: Desk, method: Method, why: str) -> None:
    for rule in RULES:
        desk.notes.not_run(rule, method.where, why)


class List:
    """One List, asked by one caller."""

    def __init__(self, desk: Desk, method: Method, caller: Caller, request: Any) -> None:
        self._desk, self._method, self._caller, self._request = desk, method, caller, request
        self._takes = method.takes

    def check(self) -> None:
        if "page_size" in self._takes:
            self._refused("page-size", "page_size", page_size=-1)
            large = self._with(page_size=LARGEST)
            answer = self._ask(large)
            self._expect(answer.ok, "page-size", answer, large, at="(too large)")
        if "page_token" in self._takes:
            self._refused("page-token", "page_token", page_token=MADE_UP)
        if "filter" in self._takes:
            self._refused("filter", "filter", at="(unreadable)", filter="((")
            self._refused("filter", "filter", at="(no field)", filter=f"{NO_FIELD} = 1")
        if "order_by" in self._takes:
            self._refused("order-by", "order_by", order_by=NO_FIELD)
        if "page_size" in self._takes and "page_token" in self._takes:
            self._walk()

    def _with(self, **changed: Any) -> Any:
        request = type(self._request)()
        request.CopyFrom(self._request)
        for name, value in changed.items():
            setattr(request, name, value)
        return request

    def _ask(self, request: Any) -> Answer:
        return self._desk.ask(self._method, request, self._caller)

    def _expect(self, holds: bool, rule: str, answer: Any, sent: Any, at: str = "") -> bool:
        return self._desk.expect(holds, rule, self._method, answer, sent=sent, caller=self._caller, at=at)

    def _refused(self, rule: str, field: str, *, at: str = "", **changed: Any) -> None:
        request = self._with(**changed)
        answer = self._ask(request)
        right = answer.code == "INVALID_ARGUMENT" and field in answer.fields
        self._expect(right, rule, answer, request, at=at)

    def _walk(self) -> None:
        whole, _ = self._all(0)
        if len(whole) < 2:
            for rule in ("page-walk", "page-binding"):
                self._desk.notes.not_run(rule, self._method.where, "the list has fewer than two records")
            return
        size = max(len(whole) // 4, 1)
        for left in range(TRIES, 0, -1):
            walked, trouble = self._all(size)
            after = whole if walked == whole else self._all(0)[0]
            came = trouble or _difference(whole, walked, after)
            if came and left > 1:  # somebody may have written meanwhile
                whole = after
                continue
            self._expect(not came, "page-walk", came, self._with(page_size=size))
            break
        self._bound()

    def _all(self, size: int) -> tuple[list[Any], str]:
        """The whole list by pages of a size, and what is wrong with them."""
        found: list[Any] = []
        token, tokens = "", set[str]()
        while len(found) < MOST_WALKED:
            request = self._with(page_size=size, page_token=token)
            answer = self._ask(request)
            if not answer.ok:
                return found, f"page {len(tokens) + 1}: {answer}"
            message = self._desk.got(self._method, answer)
            page = list(getattr(message, self._method.listed.name)) if self._method.listed is not None else []
            if size and len(page) > size:
                return found, f"a page of {len(page)} for a page_size of {size}"
            found += [_identity(record) for record in page]
            token = getattr(message, "next_page_token", "")
            if not token:
                return found, ""
            if token in tokens:
                return found, "the same next_page_token twice"
            tokens.add(token)
        return found, ""

    def _bound(self) -> None:
        """A token with another query."""
        message = self._desk.got(self._method, self._ask(self._with(page_size=1)))
        token, field = getattr(message, "next_page_token", ""), self._filterable()
        where = self._method.where
        if not token or not field or "order_by" not in self._takes:
            self._desk.notes.not_run("page-binding", where, "there is no other query that it would take")
            return
        other = self._with(page_size=1, order_by=f"{field} desc")
        if not self._ask(other).ok:
            self._desk.notes.not_run("page-binding", where, f"it does not take order_by {field} desc")
            return
        request = self._with(page_size=1, page_token=token, order_by=f"{field} desc")
        answer = self._ask(request)
        right = answer.code == "INVALID_ARGUMENT" and "page_token" in answer.fields
        self._expect(right, "page-binding", answer, request)

    def _filterable(self) -> str:
        listed = self._method.listed
        if listed is None or not listed.message_type:
            return ""
        fields = listed.message_type.fields
        return next((f.name for f in fields if f.GetOptions().Extensions[options_pb2.field].filterable), "")


def _identity(record: Any) -> Any:
    """What tells a record from others: its name, or all of it."""
    return getattr(record, "name", "") or (record if isinstance(record, str) else record.SerializeToString())


def _difference(before: list[Any], walked: list[Any], after: list[Any]) -> str:
    """What is wrong with a list walked by pages, which stood whole before and after; what came meanwhile
    may be in it."""
    counts = Counter(walked)
    twice = [str(r) for r, count in counts.items() if count > max(after.count(r), 1)]
    missing = [str(r) for r in before if r in after and r not in counts]
    unknown = [str(r) for r in counts if r not in after]
    parts = [f"twice: {', '.join(twice[:3])}"] if twice else []
    parts += [f"missing: {', '.join(missing[:3])}"] if missing else []
    parts += [f"not in the whole list: {', '.join(unknown[:3])}"] if unknown else []
    common = [r for r in after if r in counts]
    if not parts and [r for r in walked if r in after] != common:
        return "the same records in another order"
    return "; ".join(parts)
