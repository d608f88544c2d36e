"""Messages as rows: a table derived from its message, and the way there and back. Separate from the
database, so that a service's DBA finds one readable column per field and nobody writes a model twice."""

import datetime
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from mesh import contract, errors, keys, privacy, regions, tables
from mesh.contract import Field, Resource, Shape

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_TYPES: dict[str, Any] = {
    "string": tables.TEXT, "enum": tables.TEXT, "bool": sa.Boolean(), "int": sa.BigInteger(),
    "double": sa.Double(), "bytes": sa.LargeBinary(), "timestamp": tables.INSTANT,
}  # fmt: skip
PLUMBING = ("name", "region", "version", "owner", "alarm_time", "digest")
TOWNSHIP = "township"


def table(resource: Resource, metadata: sa.MetaData) -> sa.Table:
    """The table of a resource: the plumbing's columns, then one per field, JSON for nested ones, and one
    for the keyed digest of a searchable field."""
    column, text = sa.Column, tables.TEXT
    columns: list[sa.Column[Any]] = [
        column("name", text, primary_key=True, nullable=False),
        column("region", text, nullable=False),
        column("version", sa.Integer, nullable=False, comment="counts the commits; the etag"),
        column("owner", text, nullable=False, comment="reference of who created it"),
        column("alarm_time", tables.INSTANT, comment="when the plumbing next acts on it by itself"),
        column("digest", text, nullable=False, comment="SHA-256 of what was published of it"),
    ]
    if resource.division:
        columns.append(column(TOWNSHIP, text, nullable=False, comment="first nine digits of the division"))
    for field in kept(resource):
        if field.name in (*PLUMBING, TOWNSHIP):
            raise contract.BadContract(
                f"villagemesh: {resource.shape.full_name}.{field.name} is the plumbing's"
            )
        nested = field.repeated or field.kind == "message"
        null = nested or field.optional or field.kind == "timestamp"
        columns.append(column(field.name, tables.JSON if nested else _TYPES[field.kind], nullable=null))
        if field.searchable:
            columns.append(column(f"{field.name}_digest", text, nullable=False))
    found = sa.Table(resource.table, metadata, *columns, comment=f"{resource.shape.full_name}")
    _index(found, resource)
    for n, fields in enumerate(resource.unique):
        found.append_constraint(sa.UniqueConstraint("region", *fields, name=f"{resource.table}_unique_{n}"))
    for n, condition in enumerate(resource.checks):
        found.append_constraint(sa.CheckConstraint(condition, name=f"{resource.table}_check_{n}"))
    return found


def _index(found: sa.Table, resource: Resource) -> None:
    """Indexes for lists of a region and of a township by name and as the resource asks; for those of one
    owner; and small ones for what the plumbing looks for by itself."""
    c, places = found.c, ["region", TOWNSHIP] if resource.division else ["region"]
    for place in places:
        sa.Index(f"{found.name}_{place}", c[place], c.name)
    sa.Index(f"{found.name}_owner", c.owner, c.name)
    for names in resource.indexes:
        for first in [()] if names[0] == resource.handling_unit else [(place,) for place in places]:
            sa.Index(f"{found.name}_{'_'.join((*first, *names))}", *(c[n] for n in (*first, *names, "name")))
    for field in resource.shape.fields:
        if field.searchable:
            sa.Index(f"{found.name}_{field.name}_digest", c[f"{field.name}_digest"])
    conditions: dict[str, Any] = {"alarm_time": c.alarm_time.is_not(None)}
    if "due_provisional" in c:
        conditions["due_provisional"] = sa.text("due_provisional IS TRUE")
    for name, condition in conditions.items():
        where: Any = {"postgresql_where": condition, "sqlite_where": condition}
        sa.Index(f"{found.name}_{name}", c[name], **where)


def kept(resource: Resource) -> list[Field]:
    """The fields that become columns of their own: all but the name and the etag."""
    return [f for f in resource.shape.fields if f.name not in ("name", "etag")]


def uuid7(now: datetime.datetime) -> str:
    """A UUIDv7 (RFC 9562): sorts by time to the millisecond, and by sub-millisecond within it."""
    micros = (now - EPOCH) // datetime.timedelta(microseconds=1)
    value = (micros // 1000) << 80 | 0x7 << 76 | (micros % 1000 * 4096 // 1000) << 64 | 0b10 << 62
    text = f"{value | int.from_bytes(keys.random_bytes(8)) >> 2:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def stamp(moment: datetime.datetime) -> Timestamp:
    """An aware datetime as a Timestamp."""
    span = moment - EPOCH
    return Timestamp(seconds=span.days * 86_400 + span.seconds, nanos=span.microseconds * 1000)


def moment(stamped: Timestamp) -> datetime.datetime:
    """A Timestamp as an aware datetime, cut to the microsecond."""
    return EPOCH + datetime.timedelta(seconds=stamped.seconds, microseconds=stamped.nanos // 1000)


def instant(when: datetime.datetime, *, sqlite: bool) -> Any:
    """A moment as the driver wants it."""
    if not sqlite:
        return when
    return rfc3339(when)


def stamped(timestamp: Any, *, sqlite: bool) -> Any:
    """A protobuf timestamp as the driver wants its moment."""
    if not sqlite:
        return moment(timestamp)
    if 0 <= timestamp.nanos < 10**9:
        return f"{_second(timestamp.seconds)}.{timestamp.nanos // 1000:06d}Z"
    return rfc3339(moment(timestamp))


@functools.lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    """A second since 1970 as text; in what is copied and listed the same come again and again."""
    return (EPOCH + datetime.timedelta(seconds=seconds)).isoformat()[:19]


def rfc3339(when: datetime.datetime) -> str:
    """A moment as text, to the microsecond."""
    known = when if when.tzinfo is datetime.UTC else when.astimezone(datetime.UTC)
    return known.isoformat(timespec="microseconds")[:26] + "Z"


def when(value: Any) -> datetime.datetime:
    """The driver's moment as an aware datetime."""
    return datetime.datetime.fromisoformat(value) if isinstance(value, str) else value


class Row(NamedTuple):
    """A resource as it was read, with what the plumbing keeps beside it."""

    message: Any
    region: str
    version: int
    owner: str
    alarm: datetime.datetime | None
    digest: str


class Codec:
    """Turns one resource's messages into rows of one database, and back."""

    def __init__(
        self, resource: Resource, own: sa.Table, rings: keys.Rings, *, domain: str, sqlite: bool
    ) -> None:
        self.resource, self.rings, self.domain, self.sqlite = resource, rings, domain, sqlite
        self.table = own
        self.fields = kept(resource)
        self._searchable = [f for f in self.fields if f.searchable]
        self.columns = [self.table.c[n] for n in (*PLUMBING, *(f.name for f in self.fields))]
        self._writers = {f.name: self._writer(f) for f in self.fields}
        blank = resource.cls()
        self._blank = {f.name: self._empty(f, getattr(blank, f.name)) for f in self.fields}
        self._readers = [(f.name, self._reader(f)) for f in self.fields]

    def encode(self, message: Any) -> dict[str, Any]:
        """Column values for a message's own fields."""
        name, division = message.name, self.resource.division
        found = dict(self._blank)
        for descriptor, value in message.ListFields():
            if (key := descriptor.name) in found:
                write = self._writers[key]
                found[key] = write(value, name) if write is not None else value
        if division:
            found[TOWNSHIP] = getattr(message, division)[:9]
        for field in self._searchable:
            found[f"{field.name}_digest"] = self.search_digest(
                field, getattr(message, field.name), region_in(name)
            )
        return found

    def search_digest(self, field: Field, text: str, region: str) -> str:
        """The keyed digest by which a searchable field is found; empty for nothing."""
        wanted = privacy.canonical(text, field.personal)
        return self.rings.data.index(wanted, region=region, domain=self.domain) if wanted else ""

    def decode(self, row: Any) -> Row:
        """A message from a row of `columns`."""
        name, region, version, owner, alarm, digest = row[:6]
        values: dict[str, Any] = {"name": name}
        for (field, read), value in zip(self._readers, row[6:], strict=True):
            if value is not None and value != "":
                values[field] = read(value, name) if read else value
        message = self.resource.cls(**values)
        message.etag = str(version)
        return Row(message, region, version, owner, when(alarm) if alarm else None, digest)

    @staticmethod
    def _empty(field: Field, value: Any) -> Any:
        """What the column of a field that is not set holds; `value`: what the message has then."""
        if field.repeated or field.kind in ("message", "timestamp"):
            return None
        if field.kind == "enum":
            return field.enum.get(value) or str(value)
        return None if field.optional and not (field.personal and field.kind == "string") else value

    def _writer(self, field: Field) -> Callable[[Any, str], Any] | None:
        """What makes a column's value of a field's; None when it is the same."""
        key, ring = field.name, self.rings.of(field)
        if field.repeated:
            return lambda values, name: _dump([_plain_value(field, v, ring, f"{name}/{key}") for v in values])
        if field.personal and field.kind == "string":
            return lambda value, name: ring.encrypt(value, f"{name}/{key}")
        if field.kind == "message":
            return lambda value, name: _dump(_plain_value(field, value, ring, f"{name}/{key}"))
        if field.kind == "timestamp":
            return lambda value, _: stamped(value, sqlite=self.sqlite)
        if field.kind == "enum":
            return lambda value, _: field.enum.get(value) or str(value)
        return None

    def _reader(self, field: Field) -> Callable[[Any, str], Any] | None:
        key, ring = field.name, self.rings.of(field)
        if field.repeated or field.kind == "message":
            fill = _filler(field, ring)
            return lambda value, name: fill(
                orjson.loads(value) if isinstance(value, str) and self.sqlite else value, f"{name}/{key}"
            )
        if field.personal and field.kind == "string":
            return lambda value, name: ring.decrypt(value, f"{name}/{key}")
        if field.kind == "timestamp":
            return lambda value, _: stamp(when(value))
        if field.kind == "enum":
            numbers = _numbers(field)
            return lambda value, _: numbers[value] if value in numbers else int(value)
        if field.kind == "bool":
            return lambda value, _: bool(value)
        return None


def _numbers(field: Field) -> dict[str, int]:
    return {name: number for number, name in field.enum.items()}


def _dump(value: Any) -> str:
    return orjson.dumps(value).decode()


def loaded(value: Any) -> Any:
    """What a column of JSON holds: SQLite gives it as text."""
    return orjson.loads(value) if isinstance(value, str) else value


def plain(message: Any, of: Shape, ring: keys.KeyRing, context: str) -> dict[str, Any]:
    """A nested message as JSON values: enums by short name, instants as RFC 3339, personal fields
    encrypted. Default values are left out."""
    found: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        field = of.field(descriptor.name)
        where = f"{context}/{field.name}"
        if field.repeated:
            found[field.name] = [_plain_value(field, v, ring, where) for v in value]
        else:
            found[field.name] = _plain_value(field, value, ring, where)
    return found


def _plain_value(field: Field, value: Any, ring: keys.KeyRing, context: str) -> Any:
    if field.message is not None:
        parts = plain(value, field.message, ring, context)
        return ring.encrypt(_dump(parts), context) if field.personal else parts
    if field.kind == "timestamp":
        return moment(value).isoformat()
    if field.kind == "enum":
        return field.enum.get(value, value)
    if field.kind == "bytes":
        return value.hex()
    return ring.encrypt(value, context) if field.personal else value


Filler = Callable[[Any, str], Any]


def _filler(field: Field, ring: keys.KeyRing) -> Filler:
    """The other way round: what makes of a value of `plain` what a message's constructor takes."""
    one = _single_filler(field, ring)
    if one is None:
        return lambda value, _: value
    if field.repeated:
        return lambda values, context: [one(value, context) for value in values]
    return one


def _single_filler(field: Field, ring: keys.KeyRing) -> Filler | None:
    """None when the constructor takes the value as it is."""
    if field.message is not None:
        fills = {f.name: _filler(f, ring) for f in field.message.fields if _single_filler(f, ring)}

        def parts(value: Any, context: str) -> dict[str, Any]:
            return {k: fills[k](v, f"{context}/{k}") if k in fills else v for k, v in value.items()}

        if field.personal:
            return lambda value, context: parts(orjson.loads(ring.decrypt(value, context)), context)
        return parts if fills else None
    if field.kind == "timestamp":
        return lambda value, _: stamp(datetime.datetime.fromisoformat(value))
    if field.kind == "enum":
        numbers = _numbers(field)
        return lambda value, _: value if isinstance(value, int) else numbers[value]
    if field.kind == "bytes":
        return lambda value, _: bytes.fromhex(value)
    return ring.decrypt if field.personal else None


def merge(kept: Message, given: Message, mask: Any, resource: Resource) -> None:
    """Takes over the fields that `mask` names; without one, those that are set; with `*`, all that a caller
    may set."""
    settable = [f.name for f in resource.shape.fields if not f.output_only and f.name != "name"]
    paths = list(mask.paths) or [f.name for f, _ in given.ListFields() if f.name in settable]
    for path in settable if paths == ["*"] else paths:
        if path not in settable:
            raise errors.Invalid("update_mask", f"{path!r} is not one of: {', '.join(settable)}")
        kept.ClearField(path)
        if given.DESCRIPTOR.fields_by_name[path].is_repeated:
            getattr(kept, path).MergeFrom(getattr(given, path))
        elif given.DESCRIPTOR.fields_by_name[path].message_type:
            if given.HasField(path):
                getattr(kept, path).CopyFrom(getattr(given, path))
        elif not given.DESCRIPTOR.fields_by_name[path].has_presence or given.HasField(path):
            setattr(kept, path, getattr(given, path))


def region_in(name: str) -> str:
    """The region in a resource name or a parent: `360423` in `regions/360423/reports/…`."""
    parts = name.split("/", 2)
    return parts[1] if len(parts) > 1 and parts[0] == "regions" else ""


def new_name(resource: Resource, parent: str, now: datetime.datetime, wanted: str = "") -> str:
    """A name for a new resource under `parent`, which must be of a level that may hold it."""
    region = region_in(parent)
    if not regions.valid(region) or regions.level(region) not in resource.parents:
        levels = ", ".join(sorted(_level_name(level) for level in resource.parents))
        raise errors.Invalid("parent", f"{resource.plural} are written under a region of level {levels}")
    return f"regions/{region}/{resource.plural}/{wanted or uuid7(now)}"


def _level_name(level: int) -> str:
    from village.type.v1 import level_pb2

    return level_pb2.Level.Name(level).removeprefix("LEVEL_").lower()


def utcnow() -> datetime.datetime:
    """The clock at the edge: where a process passes time in, it comes from here."""
    return EPOCH + datetime.timedelta(microseconds=time.time_ns() // 1000)


def shape_of(message: Message) -> Shape:
    """The shape of a message."""
    return contract.shape(message.DESCRIPTOR)
