"""Takes readings, however they come (数据接收): checks them, keeps them as they came, adds them to the sums
of their hours and days, in one commit. Separate from the methods, because MQTT and HJ 212 end here too."""

import calendar
import dataclasses
import datetime
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mesh import errors, resources, store
from services.habitat import series, series_tables
from services.habitat.series import DAY_MS, HOUR_MS
from village.habitat.v1 import reading_pb2 as pb
from village.habitat.v1.station_pb2 import Calibration, Station

AHEAD_MS = 5 * 60 * 1000
"""How far a device's clock may run ahead of ours."""
OLDEST_DAYS = 5 * 366
"""How late a reading may come."""
TRIES = 3


@dataclasses.dataclass
class Taken:
    """What became of readings."""

    taken: int = 0
    repeated: int = 0
    invalid: Counter[str] = dataclasses.field(default_factory=Counter)


class Intake:
    """Takes the readings of one opened domain, however they come."""

    def __init__(self, opened: store.Store) -> None:
        self._store = weakref.ref(opened)
        self._last: dict[int, series.Last] = {}
        self._months: set[str] = set()
        self.days: set[tuple[str, int]] = set()
        """Stations, and days that are to be summed up again."""
        self.noted_day = 0
        """The day on which days without any readings were last noted, by when it begins."""
        self.touched: set[str] = set()
        """Stations whose readings are still to be held against limits."""
        self.recalled = False
        """Whether it was asked, since this process began, what an earlier one left to be looked at."""

    def take(self, station: Station, given: Sequence[pb.Series], now: datetime.datetime) -> Taken:
        """Takes one station's readings in one commit. Invalid with the field for what cannot be taken."""
        opened = self._store()
        assert opened is not None
        arrived = [self._columns(station, n, each, now) for n, each in enumerate(given)]
        for _ in range(TRIES - 1):
            try:
                return self._take(opened, station, arrived)
            except errors.Conflict:  # the same came by another way, just now
                continue
        return self._take(opened, station, arrived)

    def _columns(self, station: Station, n: int, given: pb.Series, now: datetime.datetime) -> "_Arrived":
        place = f"series[{n}]"
        instrument = next((i for i in station.instruments if i.factor == given.factor), None)
        if instrument is None:
            raise errors.Invalid(f"{place}.factor", "is measured by no instrument of that station")
        times, values, flags = list(given.times_ms), list(given.values), given.flags
        if len(values) != len(times) or (flags and len(flags) != len(times)):
            raise errors.Invalid(f"{place}.values", "and times_ms and flags are not equally many")
        if any(map(int.__gt__, times, times[1:])):
            rows = sorted(zip(times, values, flags or "N" * len(times), strict=True), key=lambda row: row[0])
            times, values = [t for t, _, _ in rows], [v for _, v, _ in rows]
            flags = "".join(f for _, _, f in rows)
        ms = int(now.timestamp() * 1000)
        if times[-1] > ms + AHEAD_MS:
            raise errors.Invalid(f"{place}.times_ms", "lies in the future")
        if times[0] < ms - OLDEST_DAYS * DAY_MS:
            raise errors.Invalid(f"{place}.times_ms", f"lies more than {OLDEST_DAYS} days back")
        return _Arrived(instrument, times, values, "" if flags.strip("N") == "" else flags)

    def _take(self, opened: store.Store, station: Station, arrived: list["_Arrived"]) -> Taken:
        found, columns, known = Taken(), [], []
        sums: dict[str, list[dict[str, Any]]] = {"reading_hours": [], "reading_days": []}
        lasts: dict[int, series.Last] = {}
        fresh = []
        for each in arrived:
            number = series_tables.series_of(station.name, each.instrument.factor)
            left = self._unknown(opened, number, each)
            found.repeated += len(each.times) - len(left.times)
            if left.times:
                fresh.append((number, left))
        cod = next((a for _, a in fresh if a.instrument.factor == series.COD), None)
        idle = _not_measuring(opened, station, [each for _, each in fresh])
        for number, each in fresh:
            last, times, values = self._last.get(number), each.times, each.values
            before = last if last is not None and last.time < times[0] else None
            arrival = series.Arrival(
                each.instrument, times, values, each.flags, before,
                {why: at for (of, why), at in idle.items() if of in ("", each.instrument.factor)},
            )  # fmt: skip
            invalid = series.judge(arrival)
            if invalid is None and cod is not None and each.instrument.factor == series.BOD:
                invalid = series.inconsistent(times, values, dict(zip(cod.times, cod.values, strict=True)))
            if invalid is not None:
                found.invalid.update(filter(None, invalid))
                values = [0.0 if why == "NAN" else v for v, why in zip(values, invalid, strict=True)]
            columns.append((number, times, values, each.flags, invalid))
            known.append({"series": number, "station": station.name, "factor": each.instrument.factor})
            for name, length in (("reading_hours", HOUR_MS), ("reading_days", DAY_MS)):
                for one in series.sums(times, values, invalid, length):
                    sums[name].append({"series": number, **vars(one)})
            if last is None or last.time < times[0]:
                lasts[number] = series.last_of(times, values, before)
            found.taken += len(times)
        if columns:
            self._make_room(opened, [row["start"] for row in sums["reading_days"]])
            series_tables.add_readings(opened, resources.region_in(station.name), known, columns, sums)
            self._last |= lasts
            self.touched.add(station.name)
            self.days |= {(station.name, row["start"]) for row in sums["reading_days"]}
        return found

    @staticmethod
    def _unknown(opened: store.Store, number: int, each: "_Arrived") -> "_Arrived":
        """Without what is there already, or came twice."""
        there = series_tables.times_there(opened, number, each.times[0], each.times[-1])
        if not there and len(set(each.times)) == len(each.times):
            return each
        kept = []
        for n, time in enumerate(each.times):
            if time not in there:
                there.add(time)
                kept.append(n)
        flags = "".join(each.flags[n] for n in kept) if each.flags else ""
        return _Arrived(each.instrument, [each.times[n] for n in kept], [each.values[n] for n in kept], flags)

    def _make_room(self, opened: store.Store, days: Sequence[int]) -> None:
        wanted = {}
        for ms in {*days, *(day + DAY_MS - 1 for day in days)}:
            first = datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
            wanted[f"{first.year:04d}{first.month:02d}"] = (first.year, first.month)
        missing = {name: month for name, month in wanted.items() if name not in self._months}
        if missing:
            series_tables.make_room(
                opened, [(name, *_month(*month)) for name, month in sorted(missing.items())]
            )
            self._months |= missing.keys()


@dataclasses.dataclass(frozen=True)
class _Arrived:
    """Readings of one instrument, in the order of their times."""

    instrument: Station.Instrument
    times: Sequence[int]
    values: Sequence[float]
    flags: str


def _month(year: int, month: int) -> tuple[int, int]:
    """(first millisecond, first of the next) of a month, UTC."""
    first = calendar.timegm((year, month, 1, 0, 0, 0)) * 1000
    return first, first + calendar.monthrange(year, month)[1] * DAY_MS


def _not_measuring(
    opened: store.Store, station: Station, arrived: Sequence[_Arrived]
) -> Mapping[tuple[str, str], list[series.Span]]:
    """When which factor's instrument was calibrated, and with "" the station out of service, by the reason,
    as far as it touches what has arrived."""
    found: dict[tuple[str, str], list[series.Span]] = {}
    if not arrived:
        return found
    span = min(each.times[0] for each in arrived), max(each.times[-1] for each in arrived)
    if station.HasField("out_of_service_until"):
        until = resources.moment(station.out_of_service_until)
        found["", "SERVICE"] = [(0, int(until.timestamp() * 1000))]
    for factor, start, end in series_tables.calibrated(opened, Calibration, station.name, span):
        found.setdefault((factor, "CALIBRATION"), []).append((start, end))
    return found


_intakes: "weakref.WeakKeyDictionary[store.Store, Intake]" = weakref.WeakKeyDictionary()


def of(opened: store.Store) -> Intake:
    """The one that takes the readings of an opened domain."""
    return _intakes.setdefault(opened, Intake(opened))
