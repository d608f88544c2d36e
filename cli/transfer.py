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
from mesh import contract, resources

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
    """What is listed or computed under a name, as in `reports` and `figures`, and the methods for many of it;
    `resource` is None of what is computed."""

    plural: str
    listing: contract.Method
    resource: contract.Resource | None = None
    batch: contract.Method | None = None

    @property
    def field(self) -> str:
        """The field of the answer that holds them."""
        return contract.snake(self.plural)

    @property
    def shape(self) -> contract.Shape:
        of = self.listing.response.DESCRIPTOR.fields_by_name[self.field].message_type
        return contract.shape(of)


def kind(domain: str, plural: str) -> Kind:
    """What a domain's contract lists, or computes, under that name."""
    found = contract.read(f"village.{domain}.v1")
    kept = {resource.plural: resource for resource in found.resources.values()}
    known: dict[str, contract.Method] = {}
    for method in found.methods.values():
        for verb in ("List", "Compute"):
            named = method.name.removeprefix(verb)
            name = named[:1].lower() + named[1:]
            if named != method.name and contract.snake(name) in method.response.DESCRIPTOR.fields_by_name:
                known[name] = method
    if plural not in known:
        raise click.ClickException(f"{domain} lists no {plural}; it lists {', '.join(sorted(known))}")
    camel = plural[0].upper() + plural[1:]
    batch = (m for m in found.methods.values() if "requests" in m.request_fields and camel in m.name)
    return Kind(plural, known[plural], kept.get(plural), next(batch, None))


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
    if of.batch is None or of.resource is None:
        raise click.ClickException(f"{of.plural} cannot be imported: no method takes many")
    tally = Tally()
    rows = sheets.read(path)
    try:
        _, first = next(rows)
    except StopIteration:
        raise sheets.BadSheet(f"{path} is empty") from None
    named = sheets.header(sheets.columns(of.resource.shape), first)
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
    assert of.resource is not None
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
    """Writes what the caller may see, page by page; how many. What is computed says of when it is."""
    asked = {k: v for k, v in query.items() if v and k in of.listing.request_fields}
    if left := sorted(k for k, v in query.items() if v and k not in asked):
        raise click.ClickException(f"{of.plural} cannot be asked for by {', '.join(left)}")
    shown = sheets.shown(of.shape)
    answers = _answers(client, of, asked)
    of_when = "cut_off_time" in of.listing.response.DESCRIPTOR.fields_by_name

    def rows() -> Iterator[list[str]]:
        yield [*(column.title for column in shown), *(["截止时间"] if of_when else [])]
        for answer in answers:
            when = []
            if of_when:
                moment = resources.moment(answer.cut_off_time).astimezone(sheets.CHINA)
                when = [moment.isoformat(sep=" ", timespec="seconds")]
            for message in getattr(answer, of.field):
                yield [*sheets.cells(shown, message), *when]

    return sheets.write(path, rows(), encoding)


def _answers(client: Client, of: Kind, asked: dict[str, str]) -> Iterator[Any]:
    """One answer behind the other, until the last."""
    paged = {"page_size": 500} if "page_size" in of.listing.request_fields else {}
    request: Any = of.listing.request(**paged, **asked)
    while True:
        try:
            answer = client.ask(of.listing, request)
        except grpc.RpcError as fault:
            raise click.ClickException(f"the node refused: {fault.details()}") from fault
        yield answer
        request_token = getattr(answer, "next_page_token", "")
        if not request_token:
            return
        request.page_token = request_token
