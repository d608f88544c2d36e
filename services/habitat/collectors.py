"""What stations send by themselves: frames of HJ 212 over TCP (数采仪), and MQTT. Each ends where the
streamed readings end, in `intake`; a device is answered when its readings are on disk, and not before."""

import asyncio
import datetime
import functools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from mesh import devices, errors, resources, store
from services.habitat import hj212, intake, tables
from village.habitat.v1 import reading_pb2 as pb
from village.habitat.v1.station_pb2 import Station

ROOT = "readings"
"""What the topics of stations begin with: `readings/{region}/{device_number}`."""
CHUNK, IDLE_S, KNOWN_S = 64 * 1024, 600.0, 5.0
SYSTEMS = {
    Station.KIND_SOURCE_WATER: {"21", "24"}, Station.KIND_SEWAGE: {"32"}, Station.KIND_AIR: {"22", "31"},
}  # fmt: skip
"""Which system's code (ST) stations of a kind speak under; others under any."""
log = logging.getLogger(__name__)


class Stations:
    """The stations of a domain by their device number, as they stood a few seconds ago."""

    def __init__(self, opened: store.Store) -> None:
        self._store = opened
        self._known: dict[str, tuple[float, Station | None]] = {}

    def of(self, number: str) -> Station | None:
        """The station of a device, if its region is this node's."""
        known = self._known.get(number)
        if known is None or time.monotonic() - known[0] > KNOWN_S:
            if len(self._known) > 100_000:
                self._known.clear()
            known = self._known[number] = (time.monotonic(), self._read(number))
        return known[1]

    def _read(self, number: str) -> Station | None:
        for name in tables.stations_of(self._store, Station, number):
            row = self._store.row(self._store.codec(Station), name)
            if row is not None and self._store.grants.owned(row.region):
                found: Station = row.message
                return found
        return None


# HJ 212


async def hj212_over_tcp(hosted: Any, _broker: str, listen: str) -> None:
    """Takes frames of HJ 212-2017 for ever."""
    host, _, port = listen.rpartition(":")
    serve = functools.partial(_serve, hosted.store, Stations(hosted.store))
    server = await asyncio.start_server(serve, host, int(port), limit=CHUNK)
    log.info("HJ 212", extra={"about": {"listen": listen}})
    async with server:
        await server.serve_forever()


async def _serve(
    opened: store.Store, stations: Stations, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    frames, parts = hj212.Reader(), hj212.Parts()
    try:
        while some := await asyncio.wait_for(reader.read(CHUNK), IDLE_S):
            found = list(frames.feed(some))
            if found:
                writer.write(await asyncio.to_thread(take_frames, opened, stations, parts, found))
                await writer.drain()
    except (TimeoutError, OSError) as fault:
        log.info("a collector has gone", extra={"about": {"why": repr(fault)}})
    except errors.Refusal as refusal:  # it is not answered, and sends again
        log.warning("a collector waits", extra={"about": {"why": str(refusal)}})
    finally:
        writer.close()


def take_frames(
    opened: store.Store, stations: Stations, parts: hj212.Parts,
    frames: Sequence[hj212.Frame | hj212.BadFrame],
) -> bytes:  # fmt: skip
    """The answers to frames, whose readings are kept by then."""
    return b"".join(_answers(opened, stations, parts, frames))


def _answers(
    opened: store.Store, stations: Stations, parts: hj212.Parts,
    frames: Sequence[hj212.Frame | hj212.BadFrame],
) -> Iterator[bytes]:  # fmt: skip
    """The answers in the order of the frames; what frames say of one station is one commit."""
    wrong: dict[int, hj212.BadFrame] = {}
    found: dict[str, tuple[Station, dict[int, list[pb.Series]]]] = {}
    for n, one in enumerate(frames):
        try:
            if isinstance(one, hj212.BadFrame):
                raise one
            whole, station = parts.whole(one), _station(stations, one)
            if whole is not None and one.command == (station.taken_command or hj212.REAL_TIME):
                given = _measured(station, hj212.measured(whole))
                found.setdefault(station.name, (station, {}))[1][n] = given
        except hj212.BadFrame as bad:
            wrong[n] = bad
        except errors.Invalid as refusal:
            wrong[n] = _rejected(one, refusal)
    for station, given_by in found.values():
        for n, refused in _kept(opened, station, given_by, resources.utcnow()).items():
            wrong[n] = _rejected(frames[n], refused)
    for n, one in enumerate(frames):
        if (why := wrong.get(n)) is not None:
            log.warning("a frame is refused", extra={"about": {"code": why.code, "why": str(why)}})
            yield hj212.answer(why.fields, why.code)
        elif isinstance(one, hj212.Frame) and one.wants_answer:
            yield hj212.answer(one.fields)


def _rejected(one: hj212.Frame | hj212.BadFrame, refusal: errors.Invalid) -> hj212.BadFrame:
    return hj212.BadFrame(hj212.REJECTED, str(refusal), one.fields)


def _kept(
    opened: store.Store, station: Station, given: Mapping[int, Iterable[pb.Series]], now: datetime.datetime
) -> dict[int, errors.Invalid]:
    """Takes what several messages say of a station, in one commit; by its number each message that is
    refused. Where one is, they are taken one by one."""
    together: dict[str, pb.Series] = {}
    for each in given.values():
        for one in each:
            into = together.setdefault(one.factor, pb.Series(factor=one.factor))
            into.times_ms.extend(one.times_ms)
            into.values.extend(one.values)
            into.flags += one.flags
    refused: dict[int, errors.Invalid] = {}
    try:
        if together:
            intake.of(opened).take(station, list(together.values()), now)
    except errors.Invalid:
        for n, each in given.items():
            try:
                intake.of(opened).take(station, list(each), now)
            except errors.Invalid as refusal:
                refused[n] = refusal
    return refused


def _station(stations: Stations, one: hj212.Frame) -> Station:
    station = stations.of(one.fields["MN"])
    if station is None:
        raise hj212.BadFrame(hj212.BAD_MN, "no station has that number", one.fields)
    if station.protocol_version not in ("", hj212.VERSION):
        raise hj212.BadFrame(hj212.BAD_FLAG, "the station speaks another version", one.fields)
    if station.access_code and station.access_code != one.fields["PW"]:
        raise hj212.BadFrame(hj212.BAD_PW, "the access code is another", one.fields)
    if one.fields["ST"] not in SYSTEMS.get(station.kind, {one.fields["ST"]}):
        raise hj212.BadFrame(hj212.BAD_ST, "stations of that kind do not speak under it", one.fields)
    if one.command not in hj212.UPLOADS:
        raise hj212.BadFrame(hj212.BAD_CN, "no command that a station sends", one.fields)
    return station


def _measured(station: Station, found: Sequence[hj212.Measured]) -> list[pb.Series]:
    """What a message says of factors that the station measures; of others it may speak too."""
    known = {instrument.factor for instrument in station.instruments}
    given = [
        pb.Series(factor=m.factor, times_ms=[m.time_ms], values=[m.value], flags=m.flag[:1] or "N")
        for m in found
        if m.factor in known
    ]
    if not given:
        raise errors.Invalid("series", "holds no factor that the station measures")
    return given


# MQTT


async def mqtt(hosted: Any, broker: str, listen: str) -> None:
    """Takes for ever what stations publish."""
    stations = Stations(hosted.store)
    await devices.run(broker, listen, ROOT, functools.partial(take_messages, hosted.store, stations))


def take_messages(
    opened: store.Store,
    stations: Stations,
    messages: Sequence[devices.Message],
    now: datetime.datetime | None = None,
) -> list[bytes]:
    """Takes messages, those of one station together; what each device is answered."""
    answers = [b""] * len(messages)
    by_number: dict[tuple[str, ...], list[int]] = {}
    for n, message in enumerate(messages):
        by_number.setdefault(message.topic, []).append(n)
    for topic, places in by_number.items():
        station = stations.of(topic[-1])
        if station is None or len(topic) != 2 or resources.region_in(station.name) != topic[0]:
            for n in places:
                answers[n] = _said(refused="no station has that number")
            continue
        for n, answer in _taken(
            opened, station, {n: messages[n].payload for n in places}, now or resources.utcnow()
        ):
            answers[n] = answer
    return answers


def _taken(
    opened: store.Store, station: Station, payloads: dict[int, bytes], now: datetime.datetime
) -> Iterator[tuple[int, bytes]]:
    read: dict[int, dict[str, pb.Series]] = {}
    for n, payload in payloads.items():
        try:
            read[n] = _series(payload)
        except (ValueError, TypeError, KeyError, AttributeError) as fault:
            yield n, _said(refused=f"cannot be read: {fault}")
    refused = _kept(opened, station, {n: each.values() for n, each in read.items()}, now)
    for n, each in read.items():
        if (refusal := refused.get(n)) is None:
            yield n, _said(each)
        else:
            about = {"station": station.name, "why": str(refusal)}
            log.warning("readings are refused", extra={"about": about})
            yield n, _said(refused=str(refusal))


def _series(payload: bytes) -> dict[str, pb.Series]:
    """`{"time_ms": 1772380800000, "values": {"w01018": 11.2}, "flags": {"w01018": "N"}}`, or an array."""
    told = orjson.loads(payload)
    found: dict[str, pb.Series] = {}
    for moment in told if isinstance(told, list) else [told]:
        flags = moment.get("flags", {})
        for factor, value in moment["values"].items():
            into = found.setdefault(factor, pb.Series(factor=factor))
            into.times_ms.append(moment["time_ms"])
            into.values.append(value)
            flag = flags.get(factor, "N")
            if len(flag) != 1 or flag not in "NFMSDCTB":
                raise ValueError(f"{flag!r} is no flag")
            into.flags += flag
    return found


def _said(each: dict[str, pb.Series] | None = None, refused: str = "") -> bytes:
    if refused:
        return orjson.dumps({"refused": refused[:300]})
    return orjson.dumps({"kept": sum(len(s.values) for s in (each or {}).values())})


FEEDS = {"hj212": hj212_over_tcp, "mqtt": mqtt}
