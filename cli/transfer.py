"""`villagemesh import` and `export`: records out of a spreadsheet into a node, and back. Through the same
methods as everybody else; a rerun adds nothing, because a row's id comes from the row."""

import dataclasses
import pathlib
import re
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import click
import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from cli import sheets
from deploy.local import node
from mesh import contract

BATCH = 100
NAMESPACE = uuid.UUID("6f1d4b0e-0a5e-5d0c-9a55-3b1f6f0f7d11")


@dataclasses.dataclass
class Tally:
    """What became of the rows."""

    added: int = 0
    there: int = 0
    wrong: int = 0


@dataclasses.dataclass(frozen=True)
class Kind:
    """A resource, and its methods for many."""

    resource: contract.Resource
    batch: contract.Method | None
    listing: contract.Method


def kind(domain: str, plural: str) -> Kind:
    """The resource of that plural in a domain's contract."""
    found = contract.read(f"village.{domain}.v1")
    for resource in found.resources.values():
        if resource.plural == plural:
            camel = plural[0].upper() + plural[1:]
            batch = next(
                (m for m in found.methods.values() if "requests" in m.request_fields and camel in m.name),
                None,
            )
            return Kind(resource, batch, found.methods[f"List{camel}"])
    known = ", ".join(sorted(r.plural for r in found.resources.values()))
    raise click.ClickException(f"{domain} keeps no {plural}; it keeps {known}")


class Client:
    """Calls of one person to one node."""

    def __init__(self, data: pathlib.Path, token: str) -> None:
        self._channel = grpc.insecure_channel(node.state(data)["grpc"])
        self._metadata = [("authorization", f"Bearer {token}")]

    def ask(self, method: contract.Method, request: Any) -> Any:
        call = self._channel.unary_unary(method.path)
        raw = call(request.SerializeToString(), metadata=self._metadata, timeout=60)
        return method.response.FromString(raw)


def load(client: Client, of: Kind, path: pathlib.Path, parent: str) -> Tally:
    """Sends every row of a file; prints what is wrong by line and column."""
    if of.batch is None:
        raise click.ClickException(f"{of.resource.plural} cannot be imported: no method takes many")
    tally = Tally()
    rows = sheets.read(path)
    try:
        _, first = next(rows)
    except StopIteration:
        raise sheets.BadSheet(f"{path} is empty") from None
    named = sheets.header(sheets.columns(of.resource.shape, settable=True), first)
    count = sum(1 for _ in sheets.read(path)) - 1
    with click.progressbar(length=count, label=path.name) as bar:
        for part in _parts(rows):
            _send(client, of, _requests(of, named, part, parent, tally), tally)
            bar.update(len(part))
    return tally


def _parts(rows: Iterator[sheets.Row]) -> Iterator[list[sheets.Row]]:
    part: list[sheets.Row] = []
    for row in rows:
        part.append(row)
        if len(part) == BATCH:
            yield part
            part = []
    if part:
        yield part


def _requests(
    of: Kind, named: list[sheets.Column], part: Iterable[sheets.Row], parent: str, tally: Tally
) -> Any:
    """The batch request of the rows that can be read, with the line of each."""
    assert of.batch is not None
    request: Any = of.batch.request(parent=parent)  # type: ignore[call-arg]
    single = contract.snake(of.resource.singular)
    lines: list[int] = []
    for line, row in part:
        message, wrong = sheets.parse(of.resource.cls, named, row)
        if wrong:
            _say(line, wrong, tally)
            continue
        inner = request.requests.add(parent=parent)
        getattr(inner, single).CopyFrom(message)
        setattr(inner, f"{single}_id", str(uuid.uuid5(NAMESPACE, f"{parent}\0" + "\0".join(row))))
        lines.append(line)
    return request, lines, {".".join(c.path): c.title for c in named}


def _send(client: Client, of: Kind, made: Any, tally: Tally) -> None:
    """Sends a batch; rows whose shape is wrong are said and left out, and the rest is sent again."""
    request, lines, titles = made
    while request.requests:
        try:
            answer = client.ask(of.batch, request)  # type: ignore[arg-type]
        except grpc.RpcError as fault:
            wrong = _by_row(rpc_status.from_call(fault), titles)
            if not wrong:
                raise click.ClickException(f"the node refused: {fault.details()}") from fault
            for n in sorted(wrong, reverse=True):
                _say(lines[n], wrong[n], tally)
                del request.requests[n], lines[n]
            continue
        for line, result in zip(lines, answer.results, strict=True):
            _count(line, result, titles, tally)
        return


def _count(line: int, result: Any, titles: dict[str, str], tally: Tally) -> None:
    if result.WhichOneof("outcome") != "refusal":
        tally.added += 1
    elif result.refusal.code == grpc.StatusCode.ALREADY_EXISTS.value[0]:
        tally.there += 1
    else:
        _say(line, _fields(result.refusal, titles) or [("", result.refusal.message)], tally)


def _by_row(status: status_pb2.Status | None, titles: dict[str, str]) -> dict[int, list[tuple[str, str]]]:
    found: dict[int, list[tuple[str, str]]] = {}
    for field, why in _violations(status):
        if place := re.match(r"requests\[(\d+)\]\.\w+\.?(.*)", field):
            found.setdefault(int(place[1]), []).append((titles.get(place[2], place[2]), why))
    return found


def _fields(status: status_pb2.Status, titles: dict[str, str]) -> list[tuple[str, str]]:
    return [(titles.get(f.partition(".")[2], f), why) for f, why in _violations(status)]


def _violations(status: Any) -> Iterator[tuple[str, str]]:
    bad = error_details_pb2.BadRequest()
    for detail in status.details if status is not None else ():
        if detail.Unpack(bad):
            yield from ((v.field, v.description) for v in bad.field_violations)


def _say(line: int, wrong: Iterable[tuple[str, str]], tally: Tally) -> None:
    tally.wrong += 1
    for title, why in wrong:
        click.echo(f"line {line}{f', {title}' if title else ''}: {why}", err=True)


def save(client: Client, of: Kind, path: pathlib.Path, query: dict[str, str], encoding: str) -> int:
    """Writes what the caller may see, page by page; how many."""
    shown = sheets.columns(of.resource.shape, settable=False)
    plural = contract.snake(of.resource.plural)

    def rows() -> Iterator[list[str]]:
        yield ["name", *(column.title for column in shown)]
        request: Any = of.listing.request(page_size=500, **query)  # type: ignore[call-arg]
        while True:
            answer = client.ask(of.listing, request)
            for message in getattr(answer, plural):
                yield [message.name, *sheets.cells(shown, message)]
            request.page_token = answer.next_page_token
            if not request.page_token:
                return

    return sheets.write(path, rows(), encoding)
