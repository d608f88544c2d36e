"""The area that a machine worked, by where it was and how wide it works; and 亩. Pure: the ground is cut
into rows, a stretch of the track covers a piece of each row it crosses, and what is covered twice counts
once."""

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

METRES_PER_DEGREE = 6_371_008.8 * math.pi / 180
ROW_M = 0.25
"""How high a row of ground is; less than a tenth of what any machine works at once."""
Corner = tuple[float, float]


def m2_of(mu: float) -> float:
    """m² of 亩: exactly 2000/3."""
    return mu * 2000 / 3


def mu_of(m2: float) -> float:
    """亩 of m²."""
    return m2 * 3 / 2000


@dataclasses.dataclass(frozen=True)
class Fix:
    """Where a machine was: seconds since anything, degrees, cm."""

    time_s: float
    latitude: float
    longitude: float
    depth_cm: float = 0.0


@dataclasses.dataclass(frozen=True)
class Worked:
    """What a track comes to."""

    area_m2: float
    overlap_m2: float
    """What was passed again."""
    mean_depth_cm: float


def worked(
    fixes: Iterable[Fix],
    *,
    width_m: float,
    longest_gap_s: float,
    fastest_kmh: float,
    least_depth_cm: float = 0.0,
) -> Worked:
    """The ground that a tool `width_m` wide passed. Two points are not joined when they are too far apart in
    time, or farther than could be driven; nor where the tool was not deep enough."""
    track = sorted(fixes, key=lambda fix: fix.time_s)
    rows: dict[int, list[Corner]] = defaultdict(list)
    depths = [fix.depth_cm for fix in track if fix.depth_cm >= least_depth_cm]
    for one, other in _stretches(track, longest_gap_s, fastest_kmh):
        if min(one[2], other[2]) >= least_depth_cm:
            for row, piece in _pieces(_swath(one[:2], other[:2], width_m)):
                rows[row].append(piece)
    passed = sum(end - start for pieces in rows.values() for start, end in pieces) * ROW_M
    area = sum(_merged(pieces) for pieces in rows.values()) * ROW_M
    return Worked(area, passed - area, sum(depths) / len(depths) if depths else 0.0)


def _stretches(
    track: Sequence[Fix], longest_gap_s: float, fastest_kmh: float
) -> Iterator[tuple[tuple[float, float, float], tuple[float, float, float]]]:
    """Pairs of joined points as (metres east, metres north, depth)."""
    if not track:
        return
    north = track[0].latitude
    east_m = METRES_PER_DEGREE * math.cos(math.radians(north))
    flat = [
        ((f.longitude - track[0].longitude) * east_m, (f.latitude - north) * METRES_PER_DEGREE, f.depth_cm)
        for f in track
    ]
    for (one, a), (other, b) in itertools.pairwise(zip(track, flat, strict=True)):
        span, distance = other.time_s - one.time_s, math.dist(a[:2], b[:2])
        if 0 < span <= longest_gap_s and 0 < distance <= fastest_kmh / 3.6 * span:
            yield a, b


def _swath(one: Corner, other: Corner, width_m: float) -> list[Corner]:
    """The corners of what is passed between two points."""
    along = math.dist(one, other)
    x = -(other[1] - one[1]) / along * width_m / 2
    y = (other[0] - one[0]) / along * width_m / 2
    return [
        (one[0] + x, one[1] + y), (other[0] + x, other[1] + y),
        (other[0] - x, other[1] - y), (one[0] - x, one[1] - y),
    ]  # fmt: skip


def _pieces(corners: list[Corner]) -> Iterator[tuple[int, Corner]]:
    """The rows whose middle a convex polygon crosses, each with from where to where."""
    low, high = min(y for _, y in corners), max(y for _, y in corners)
    for row in range(math.ceil(low / ROW_M - 0.5), math.floor(high / ROW_M - 0.5) + 1):
        middle = (row + 0.5) * ROW_M
        crossed = [
            x + (middle - y) / (next_y - y) * (next_x - x)
            for (x, y), (next_x, next_y) in itertools.pairwise([*corners, corners[0]])
            if y != next_y and min(y, next_y) <= middle <= max(y, next_y)
        ]
        if crossed:
            yield row, (min(crossed), max(crossed))


def _merged(pieces: list[Corner]) -> float:
    """How long pieces of one row are together, each place counted once."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(pieces):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total
