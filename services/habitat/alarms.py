"""Readings held against the limits of their station (预警, SM-4): each valid value, in the order of time,
once. Runs behind the readings, which are on disk by then; how far it came stands beside their series."""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from mesh import calls, errors, resources, store
from services.habitat import exceedances, intake, series_tables, standards
from village.habitat.v1.exceedance_pb2 import Exceedance
from village.habitat.v1.standard_pb2 import Standard
from village.habitat.v1.station_pb2 import Station, WaterSource

OLDEST_MS = 24 * 3_600_000
"""What came later than this raises no alarm."""
BATCH = 5000
LAKES = (WaterSource.KIND_RESERVOIR, WaterSource.KIND_CISTERN)


def watch(opened: store.Store, now: datetime.datetime) -> int:
    """Looks at what has arrived since it was last looked at; how many values it told of."""
    taking = intake.of(opened)
    if not taking.recalled:
        taking.touched |= series_tables.unwatched(opened, series_tables.ms_of(now) - OLDEST_MS)
        taking.recalled = True
    told = 0
    for name in sorted(taking.touched):
        taking.touched.discard(name)
        if not opened.grants.owned(resources.region_in(name)):
            continue
        try:
            told += _watch(opened, name, now)
        except errors.Refusal:
            taking.touched.add(name)
            raise
    return told


def _watch(opened: store.Store, name: str, now: datetime.datetime) -> int:
    call = calls.own(opened, "watch", now, resources.region_in(name))
    station = call.find(Station, name)
    standard = call.find(Standard, station.standard) if station is not None and station.standard else None
    by_series = {}
    if station is not None:
        by_series = {series_tables.series_of(name, i.factor): i.factor for i in station.instruments}
    if standard is None or station is None:
        series_tables.mark_all_watched(opened, list(by_series))
        return 0
    marks, told = series_tables.watched(opened, list(by_series)), 0
    for number, factor in by_series.items():
        after = max(marks.get(number, 0), series_tables.ms_of(now) - OLDEST_MS)
        while rows := series_tables.readings(opened, number, after + 1, 1 << 50, BATCH):
            told += _Judge(opened, station, standard, now).judge(factor, rows)
            after = rows[-1][0]
            series_tables.mark_watched(opened, number, after)
    return told


@dataclasses.dataclass(frozen=True)
class _Judge:
    """Holds a station's readings against its standard."""

    opened: store.Store
    station: Station
    standard: Standard
    now: datetime.datetime

    def judge(self, factor: str, rows: Sequence[Any]) -> int:
        """Tells of values beyond their limit, and of those that keep it while an exceedance is open."""
        told, opened, station = 0, self.opened, self.station
        water, warmth = _water(opened, station), _temperatures(opened, station, rows)
        known = exceedances.is_open(opened, station.name, factor)
        for time, value, _, invalid in rows:
            bound = None if invalid else _bound(self.standard, station, factor, (water, warmth.get(time)))
            if bound is None:
                continue
            kept = standards.keeps(Decimal(str(value)), bound, warmth.get(time))
            if kept and not known:
                continue
            told += self._tell(factor, time, value, None if kept else bound)
            known = exceedances.is_open(opened, station.name, factor)
        return told

    def _tell(self, factor: str, time: int, value: float, broken: Standard.Bound | None) -> bool:
        """Tells of one value, in a commit of its own; whether that changed anything."""
        station = self.station
        call = calls.own(self.opened, "watch", self.now, resources.region_in(station.name))
        moment = resources.EPOCH + datetime.timedelta(milliseconds=time)
        if broken is None:
            exceedances.normal(call, station=station.name, factor=factor, value=value, time=moment)
        else:
            above = not broken.min or (bool(broken.max) and value > float(broken.max))
            exceedances.suspect(
                call, station=station, factor=factor, value=value, time=moment, standard=station.standard,
                limit=float(broken.max if above else broken.min),
                side=Exceedance.SIDE_ABOVE if above else Exceedance.SIDE_BELOW,
            )  # fmt: skip
        commit = call.changes.commit()
        if commit is not None:
            self.opened.commit(commit)
        return commit is not None


def _bound(
    standard: Standard, station: Station, factor: str, around: tuple[int, Decimal | None]
) -> Standard.Bound | None:
    """What the class of the station allows; None where there is no limit, or the temperature that it hangs on
    was not measured at that time."""
    try:
        limit = standards.limit_of(standard, factor, water=around[0], temperature=around[1])
    except errors.Invalid:
        return None
    return None if limit is None else limit.bounds[list(standard.classes).index(station.standard_class)]


def _water(opened: store.Store, station: Station) -> int:
    if not station.subject.partition("/waterSources/")[1]:
        return Standard.WATER_RIVER
    row = opened.row(opened.codec(WaterSource), station.subject)
    lake = row is not None and row.message.kind in LAKES
    return Standard.WATER_LAKE if lake else Standard.WATER_RIVER


def _temperatures(opened: store.Store, station: Station, rows: Sequence[Any]) -> Mapping[int, Decimal]:
    """The water's temperature at the times of readings, as far as it was measured."""
    if standards.TEMPERATURE not in {i.factor for i in station.instruments}:
        return {}
    number = series_tables.series_of(station.name, standards.TEMPERATURE)
    found = series_tables.readings(opened, number, rows[0][0], rows[-1][0] + 1, 1 << 30)
    return {time: Decimal(str(value)) for time, value, _, invalid in found if not invalid}
