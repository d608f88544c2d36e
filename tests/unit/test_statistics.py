"""Small cells stay unknown (domain reference E): recovered neither from margins nor by asking for all and
for all but one."""

import itertools
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from mesh import statistics
from mesh.statistics import Key, Published

TABLES = st.integers(1, 4).flatmap(
    lambda width: st.lists(
        st.lists(st.sampled_from([0, 0, 1, 2, 4, 9, 10, 11, 14, 30, 200]), min_size=width, max_size=width),
        min_size=1, max_size=5,
    )
)  # fmt: skip


def keyed(table: list[list[int]]) -> dict[Key, int]:
    return {(f"r{i}", f"c{j}"): n for i, row in enumerate(table) for j, n in enumerate(row)}


def attack(seen: Published) -> dict[Key, tuple[float, float]]:
    """What an outsider can conclude: bounds of every suppressed cell, narrowed by every published sum, who
    knows the rules and that rounding moves a count by two at most."""
    slack = seen.step // 2
    bounds: dict[Key, tuple[float, float]] = {}
    for key, n in seen.cells.items():
        if n is None:
            bounds[key] = (1, float("inf"))
        else:
            bounds[key] = (max(n - slack, seen.k), n + slack) if n else (0, 0)
    sums: list[tuple[list[Key], int]] = [(list(bounds), seen.total)] if seen.total is not None else []
    for axis, lines in ((0, seen.rows), (1, seen.columns)):
        sums += [([k for k in bounds if k[axis] == name], n) for name, n in lines.items() if n is not None]
    for _ in range(30):
        for line, n in sums:
            for key in line:
                others = [bounds[k] for k in line if k != key]
                low = n - slack - sum(b[1] for b in others)
                high = n + slack - sum(b[0] for b in others)
                bounds[key] = (max(bounds[key][0], low), min(bounds[key][1], high))
    return {key: bounds[key] for key, n in seen.cells.items() if n is None}


@hypothesis.settings(max_examples=400, deadline=None, derandomize=True, database=None)
@hypothesis.given(TABLES)
def test_of_suppressed_cells_none_can_be_worked_out_from_margins(table: list[list[int]]) -> None:
    counts = keyed(table)
    for key, (low, high) in attack(statistics.publish(counts)).items():
        assert low <= counts[key] <= high, "the attack itself must be sound"
        assert high - low >= 1, (key, low, high)


def test_without_the_second_suppression_the_attack_succeeds() -> None:
    """The attack is a real one: against a table that only hides small cells, unrounded, it finds them."""
    counts = keyed([[3, 40], [50, 60]])
    naive = Published(10, 1, {k: None if 0 < n < 10 else n for k, n in counts.items()},
                      {"r0": 43, "r1": 110}, {"c0": 53, "c1": 100}, 153)  # fmt: skip
    assert attack(naive) == {("r0", "c0"): (3, 3)}


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True, database=None)
@hypothesis.given(st.lists(st.integers(0, 40), min_size=2, max_size=8))
def test_all_and_all_but_one_village_say_nothing_of_that_village(villages: list[int]) -> None:
    counts = {(f"36042310020{n}", ""): count for n, count in enumerate(villages)}
    seen = statistics.publish(counts)
    for key, count in counts.items():
        asked = [seen.at_least(counts), seen.at_least(k for k in counts if k != key)]
        told = asked[0] - asked[1]
        if 0 < count < seen.k:
            assert told == 0
        assert told == (seen.cells[key] or 0)


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True, database=None)
@hypothesis.given(st.lists(st.integers(0, 25), min_size=3, max_size=5))
def test_no_sequence_of_questions_says_more_than_the_table(villages: list[int]) -> None:
    counts = {(str(n), ""): count for n, count in enumerate(villages)}
    seen = statistics.publish(counts)
    for size in range(1, len(counts) + 1):
        for some in itertools.combinations(counts, size):
            assert seen.at_least(some) == sum(seen.cells[k] or 0 for k in some)


@pytest.mark.parametrize(
    ("table", "cells", "rows"),
    [
        ([[12, 13]], [10, 15], [25]),
        ([[0, 12]], [0, 10], [10]),
        ([[3, 12, 40]], [None, None, 40], [55]),
        ([[3, 4, 5]], [None, None, None], [10]),
        ([[3, 4, 0]], [None, None, 0], [None]),
        ([[3]], [None], [None]),
    ],
)
def test_hides_small_ones_and_what_protects_them(table: Any, cells: Any, rows: Any) -> None:
    seen = statistics.publish(keyed(table))
    assert list(seen.cells.values()) == cells
    assert list(seen.rows.values()) == rows


def test_of_a_small_whole_there_is_no_percentage() -> None:
    assert statistics.percentage(10, 15) is None
    assert statistics.percentage(10, 30) == 33.3
