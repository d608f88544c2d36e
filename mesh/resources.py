"""Messages as rows: a table derived from its message, and the way there and back. Separate from the
database, so that a service's DBA finds one readable column per field and nobody writes a model twice."""

import dataclasses
import datetime
import os
import time
from collections.abc import Callable
from typing import Any

import orjson
import sqlalchemy as sa
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from mesh import contract, errors, privacy, regions, tables
from mesh.contract import Field, Resource, Shape

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_TYPES: dict[str, Any] = {
    "string": sa.Text(), "enum": sa.Text(), "bool": sa.Boolean(), "int": sa.BigInteger(),
    "double": sa.Double(), "bytes": sa.LargeBinary(), "timestamp": tables.INSTANT,
}  # fmt: skip
PLUMBING = ("name", "region", "version", "owner", "alarm_time", "digest")


def table(resource: Resource, metadata: sa.MetaData) -> sa.Table:
    """The table of a resource: the plumbing's columns, then one per field, JSON for nested ones."""
    columns: list[sa.Column[Any]] = [
        sa.Column("name", sa.Text, primary_key=True, nullable=False),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False, comment="counts the commits; the etag"),
        sa.Column("owner", sa.Text, nullable=False, comment="reference of who created it"),
        sa.Column("alarm_time", tables.INSTANT, comment="when the plumbing next acts on it by itself"),
        sa.Column("digest", sa.Text, nullable=False, comment="SHA-256 of what was published of it"),
    ]
    for field in kept(resource):
        nested = field.repeated or field.kind == "message"
        null = nested or field.optional or field.kind == "timestamp"
        columns.append(sa.Column(field.name, tables.JSON if nested else _TYPES[field.kind], nullable=null))
    found = sa.Table(resource.table, metadata, *columns, comment=f"{resource.shape.full_name}")
    name = resource.table
    sa.Index(f"{name}_region", found.c.region, found.c.name)
    sa.Index(f"{name}_owner", found.c.owner, found.c.name)
    sa.Index(
        f"{name}_alarm_time",
        found.c.alarm_time,
        postgresql_where=found.c.alarm_time.is_not(None),
        sqlite_where=found.c.alarm_time.is_not(None),
    )
    for names in [(f.name,) for f in kept(resource) if f.indexed] + list(resource.indexes):
        sa.Index(f"{name}_{'_'.join(names)}", *(found.c[n] for n in (*names, "name")))
    return found


def kept(resource: Resource) -> list[Field]:
    """The fields that become columns of their own: all but the name and the etag."""
    return [f for f in resource.shape.fields if f.name not in ("name", "etag")]


def uuid7(now: datetime.datetime) -> str:
    """A UUIDv7 (RFC 9562): sorts by time to the millisecond, and by sub-millisecond within it."""
    micros = (now - EPOCH) // datetime.timedelta(microseconds=1)
    value = (micros // 1000) << 80 | 0x7 << 76 | (micros % 1000 * 4096 // 1000) << 64 | 0b10 << 62
    text = f"{value | int.from_bytes(os.urandom(8)) >> 2:032x}"
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
    return when.astimezone(datetime.UTC).isoformat(timespec="microseconds")[:26] + "Z"


def when(value: Any) -> datetime.datetime:
    """The driver's moment as an aware datetime."""
    return datetime.datetime.fromisoformat(value) if isinstance(value, str) else value


@dataclasses.dataclass(frozen=True)
class Row:
    """A resource as it was read, with what the plumbing keeps beside it."""

    message: Any
    region: str
    version: int
    owner: str
    alarm: datetime.datetime | None
    digest: str


class Codec:
    """Turns one resource's messages into rows of one database, and back."""

    def __init__(self, resource: Resource, own: sa.Table, ring: privacy.KeyRing, sqlite: bool) -> None:
        self.resource, self.ring, self.sqlite = resource, ring, sqlite
        self.table = own
        self.fields = kept(resource)
        self.columns = [self.table.c[n] for n in (*PLUMBING, *(f.name for f in self.fields))]
        self._writers = [(f.name, self._writer(f)) for f in self.fields]
        self._readers = [(f.name, self._reader(f)) for f in self.fields]

    def encode(self, message: Any) -> dict[str, Any]:
        """Column values for a message's own fields."""
        name = message.name
        return {field: write(message, name) for field, write in self._writers}

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

    def _writer(self, field: Field) -> Callable[[Any, str], Any]:
        key = field.name
        if field.personal and field.kind == "string" and not field.repeated:
            return lambda m, name: self.ring.encrypt(getattr(m, key), f"{name}/{key}")
        if field.repeated:
            return lambda m, name: (
                _dump([_plain_value(field, v, self.ring, f"{name}/{key}") for v in getattr(m, key)])
                if getattr(m, key)
                else None
            )
        if field.kind == "message":
            assert field.message is not None
            return lambda m, name: (
                _dump(plain(getattr(m, key), field.message, self.ring, f"{name}/{key}"))  # type: ignore[arg-type]
                if m.HasField(key)
                else None
            )
        if field.kind == "timestamp":
            return lambda m, _: (
                instant(moment(getattr(m, key)), sqlite=self.sqlite) if m.HasField(key) else None
            )
        if field.kind == "enum":
            return lambda m, _: field.enum.get(getattr(m, key)) or str(getattr(m, key))
        if field.optional:
            return lambda m, _: getattr(m, key) if m.HasField(key) else None
        return lambda m, _: getattr(m, key)

    def _reader(self, field: Field) -> Callable[[Any, str], Any] | None:
        key = field.name
        if field.repeated or field.kind == "message":
            fill = _filler(field, self.ring)
            return lambda value, name: fill(
                orjson.loads(value) if isinstance(value, str) else value, f"{name}/{key}"
            )
        if field.personal and field.kind == "string":
            return lambda value, name: self.ring.decrypt(value, f"{name}/{key}")
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


def plain(message: Any, of: Shape, ring: privacy.KeyRing, context: str) -> dict[str, Any]:
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


def _plain_value(field: Field, value: Any, ring: privacy.KeyRing, context: str) -> Any:
    if field.kind == "message":
        assert field.message is not None
        return plain(value, field.message, ring, context)
    if field.kind == "timestamp":
        return moment(value).isoformat()
    if field.kind == "enum":
        return field.enum.get(value, value)
    if field.kind == "bytes":
        return value.hex()
    return ring.encrypt(value, context) if field.personal else value


def _filler(field: Field, ring: privacy.KeyRing) -> Callable[[Any, str], Any]:
    """The other way round: what makes of a value of `plain` what a message's constructor takes."""
    one = _single_filler(field, ring)
    if one is None:
        return lambda value, _: value
    if field.repeated:
        return lambda values, context: [one(value, context) for value in values]
    return one


def _single_filler(field: Field, ring: privacy.KeyRing) -> Callable[[Any, str], Any] | None:
    """None when the constructor takes the value as it is."""
    if field.message is not None:
        fills = {f.name: _filler(f, ring) for f in field.message.fields if _single_filler(f, ring)}
        if not fills:
            return None
        return lambda value, context: {
            k: fills[k](v, f"{context}/{k}") if k in fills else v for k, v in value.items()
        }
    if field.kind == "timestamp":
        return lambda value, _: stamp(datetime.datetime.fromisoformat(value))
    if field.kind == "enum":
        numbers = _numbers(field)
        return lambda value, _: value if isinstance(value, int) else numbers[value]
    if field.kind == "bytes":
        return lambda value, _: bytes.fromhex(value)
    return ring.decrypt if field.personal else None


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
