"""Records as rows of a spreadsheet, and back: CSV in UTF-8 or GB 18030, XLSX. Columns are the fields of the
message, by their Chinese titles or their names; on the way in, those that a person fills in."""

import csv
import dataclasses
import datetime
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import openpyxl
from google.protobuf.message import Message
from google.type import latlng_pb2

from mesh import contract, resources
from mesh.contract import Field, Shape

CHINA = datetime.timezone(datetime.timedelta(hours=8))
PLACE = latlng_pb2.LatLng.DESCRIPTOR.full_name
DECIMAL, DATE = "google.type.Decimal", "google.type.Date"
WHOLE = {PLACE, DECIMAL, DATE}
"""Messages that are one cell."""
Row = tuple[int, list[str]]
"""Line of the file, from 1, and its cells."""


class BadSheet(Exception):  # noqa: N818 - an answer, not a fault
    """A file that is no sheet of these records; the text says why."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One column. `path`: where its field stands in the message."""

    path: tuple[str, ...]
    field: Field
    title: str


def columns(of: Shape) -> list[Column]:
    """What a person fills in: the titled fields of a message, and of the messages in it, that a caller may
    set."""
    found: list[Column] = []
    for field in of.fields:
        if field.output_only or not field.title or field.repeated:
            continue
        if field.message is not None and field.message.full_name != PLACE:
            inner = columns(field.message)
            found += [dataclasses.replace(c, path=(field.name, *c.path)) for c in inner]
        else:
            found.append(Column((field.name,), field, field.title))
    return found


def shown(of: Shape, *, above: str = "") -> list[Column]:
    """Everything that fits a cell: the fields of a message and of the messages in it, by title where they
    have one, else by name; several values of one field in one cell. Lists of messages, such as photos, are
    left out, and so is the etag."""
    found: list[Column] = []
    for field in of.fields:
        title = field.title or f"{above}{field.name}"
        if field.message is None or (field.message.full_name in WHOLE and not field.repeated):
            if field.name != "etag" and field.kind != "bytes":
                found.append(Column((field.name,), field, title))
        elif not field.repeated:
            inner = shown(field.message, above=f"{field.name}.")
            found += [dataclasses.replace(c, path=(field.name, *c.path)) for c in inner]
    return found


def read(path: pathlib.Path) -> Iterator[Row]:
    """The rows of a file that hold anything, the header first. BadSheet."""
    rows = _xlsx(path) if path.suffix.lower() == ".xlsx" else _csv(path)
    for line, cells in rows:
        if any(cell.strip() for cell in cells):
            yield line, cells


def _csv(path: pathlib.Path) -> Iterator[Row]:
    with path.open(encoding=_encoding(path), newline="") as file:
        reader = csv.reader(file)
        for cells in reader:
            yield reader.line_num, cells


def _encoding(path: pathlib.Path) -> str:
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            with path.open(encoding=encoding) as file:
                for _ in iter(lambda: file.read(1 << 20), ""):
                    pass
            return encoding
        except UnicodeDecodeError:
            continue
    raise BadSheet(f"{path} is text neither in UTF-8 nor in GB 18030")


def _xlsx(path: pathlib.Path) -> Iterator[Row]:
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as fault:
        raise BadSheet(f"{path} is no XLSX workbook: {fault}") from fault
    for line, cells in enumerate(book.worksheets[0].iter_rows(values_only=True), 1):
        yield line, [_text(cell) for cell in cells]
    book.close()


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, datetime.datetime):
        return cell.isoformat(sep=" ")
    if isinstance(cell, float) and cell.is_integer():  # codes that somebody typed as numbers
        return str(int(cell))
    return str(cell)


def header(known: Sequence[Column], cells: Sequence[str]) -> list[Column]:
    """The columns that the first row names, by title or by name. BadSheet for one that is none, or twice."""
    names = {c.title: c for c in known} | {".".join(c.path): c for c in known}
    found = []
    for number, cell in enumerate(cells, 1):
        if cell.strip() not in names:
            titles = "、".join(c.title for c in known)
            raise BadSheet(f"line 1, column {number}: {cell!r} is none of {titles}")
        found.append(names[cell.strip()])
    if len({column.path for column in found}) < len(found):
        raise BadSheet("line 1: a column stands there twice")
    return found


def parse(
    cls: type[Message], named: Sequence[Column], cells: Sequence[str]
) -> tuple[Any, list[tuple[str, str]]]:
    """A message, and what is wrong by column title."""
    message, wrong = cls(), []
    for column, cell in itertools.zip_longest(named, cells[: len(named)], fillvalue=""):
        assert isinstance(column, Column)
        if not str(cell).strip():
            continue
        at: Any = message
        for name in column.path[:-1]:
            at = getattr(at, name)
        try:
            _fill(at, column.field, str(cell).strip())
        except (ValueError, KeyError) as fault:
            wrong.append((column.title, str(fault).strip("'")))
    return message, wrong


def _fill(at: Any, field: Field, cell: str) -> None:
    if field.message is not None:
        latitude, _, longitude = cell.replace("，", ",").partition(",")
        getattr(at, field.name).CopyFrom(
            latlng_pb2.LatLng(latitude=float(latitude), longitude=float(longitude))
        )
    elif field.kind == "timestamp":
        when = datetime.datetime.fromisoformat(cell.replace("/", "-"))
        getattr(at, field.name).CopyFrom(resources.stamp(when if when.tzinfo else when.replace(tzinfo=CHINA)))
    elif field.kind == "enum":
        numbers = {name: number for number, name in field.enum.items()}
        if cell.upper() not in numbers:
            raise ValueError(f"{cell!r} is none of {', '.join(list(numbers)[1:])}")
        setattr(at, field.name, numbers[cell.upper()])
    elif field.kind == "bool":
        setattr(at, field.name, {"是": True, "true": True, "否": False, "false": False}[cell.lower()])
    else:
        made = {"int": int, "double": float}.get(field.kind, str)
        setattr(at, field.name, made(cell))


def cells(of: Iterable[Column], message: Message) -> list[str]:
    """A message as cells."""
    found = []
    for column in of:
        at: Any = message
        for name in column.path[:-1]:
            at = getattr(at, name)
        found.append(_cell(at, column.field))
    return found


def _cell(at: Any, field: Field) -> str:
    value = getattr(at, field.name)
    if field.repeated:
        one = dataclasses.replace(field, repeated=False)
        return "；".join(_text_of(one, each) for each in value)
    if field.message is not None or field.kind == "timestamp" or field.optional:
        return _text_of(field, value) if at.HasField(field.name) else ""
    return _text_of(field, value)


def _text_of(field: Field, value: Any) -> str:
    if field.message is not None:
        return _whole(field.message.full_name, value)
    if field.kind == "timestamp":
        return resources.moment(value).astimezone(CHINA).isoformat(sep=" ", timespec="seconds")
    if field.kind == "enum":
        return field.enum.get(value, str(value)) if value else ""
    if field.kind == "bool":
        return "是" if value else "否"
    text = str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") and field.kind == "string" else text  # no formulas


def _whole(kind: str, value: Any) -> str:
    if kind == DECIMAL:
        return str(value.value)
    if kind == DATE:
        return f"{value.year:04d}-{value.month:02d}-{value.day:02d}"
    return f"{value.latitude},{value.longitude}"


def write(path: pathlib.Path, rows: Iterable[Sequence[str]], encoding: str) -> int:
    """Writes rows, the header first, a row at a time; how many records."""
    count = -1
    if path.suffix.lower() == ".xlsx":
        book = openpyxl.Workbook(write_only=True)
        sheet = book.create_sheet()
        for count, row in enumerate(rows):  # noqa: B007 - the last number is the answer
            sheet.append(list(row))
        book.save(path)
        return count
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file)
        for count, row in enumerate(rows):  # noqa: B007
            writer.writerow(row)
    return count


def shape(cls: type[Message]) -> Shape:
    """The fields of a message class."""
    return contract.shape(cls.DESCRIPTOR)
