"""Counts of people that may be published: small cells suppressed so that no single one can be worked out,
neither from totals nor from several questions. One function for every domain, because each would forget
another half."""

import dataclasses
from collections.abc import Iterable, Mapping

K, STEP, LEAST_WHOLE = 10, 5, 20
"""Cells below K are suppressed, others rounded to STEP; a percentage needs a whole of LEAST_WHOLE."""

Key = tuple[str, str]
"""Row and column; a table of one dimension has one column, as in ("360423100", "")."""


@dataclasses.dataclass(frozen=True)
class Published:
    """A table as it may be shown. None stands for a suppressed count: `<K`, or one that protects another."""

    k: int
    step: int
    cells: Mapping[Key, int | None]
    rows: Mapping[str, int | None]
    columns: Mapping[str, int | None]
    total: int | None

    def at_least(self, keys: Iterable[Key]) -> int:
        """How many there are at least in some cells: out of what is published, so that no sequence of
        questions says more than the table."""
        return sum(self.cells.get(key) or 0 for key in set(keys))


def publish(counts: Mapping[Key, int], k: int = K, step: int = STEP) -> Published:
    """Suppresses cells from 1 to `k` - 1, and as many more that in each row and column the suppressed ones
    are several and together at least `k`; rounds the rest."""
    hidden = {key for key, count in counts.items() if 0 < count < k}
    lines = [*_lines(counts, 0).values(), *_lines(counts, 1).values(), list(counts)]
    while True:
        more = {_least(counts, line, hidden) for line in lines if _exposed(counts, line, hidden, k)} - {None}
        if not more:
            break
        hidden |= more  # type: ignore[arg-type]

    def shown(line: Iterable[Key]) -> int | None:
        """A sum; None where what is suppressed of it would be all there is, or stands alone."""
        part = list(line)
        if _exposed(counts, part, hidden, k):
            return None
        return _rounded(sum(counts[key] for key in part), step)

    return Published(
        k, step,
        {key: None if key in hidden else _rounded(count, step) for key, count in counts.items()},
        {name: shown(line) for name, line in _lines(counts, 0).items()},
        {name: shown(line) for name, line in _lines(counts, 1).items()},
        shown(counts),
    )  # fmt: skip


def percentage(part: int, whole: int) -> float | None:
    """A percentage of published counts to one decimal; None when the whole is too small for one."""
    return round(100 * part / whole, 1) if whole >= LEAST_WHOLE else None


def _lines(counts: Mapping[Key, int], axis: int) -> dict[str, list[Key]]:
    found: dict[str, list[Key]] = {}
    for key in counts:
        found.setdefault(key[axis], []).append(key)
    return found


def _exposed(counts: Mapping[Key, int], line: Iterable[Key], hidden: set[Key], k: int) -> bool:
    """Whether the sum of a line would give a suppressed cell away."""
    inside = [counts[key] for key in line if key in hidden]
    return bool(inside) and (len(inside) == 1 or sum(inside) < k)


def _least(counts: Mapping[Key, int], line: Iterable[Key], hidden: set[Key]) -> Key | None:
    """The smallest cell of a line that is still shown; None when all there is to show is nothing."""
    left = [key for key in line if key not in hidden and counts[key]]
    return min(left, key=lambda key: (counts[key], key), default=None)


def _rounded(count: int, step: int) -> int:
    return (count + step // 2) // step * step
