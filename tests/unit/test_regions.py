"""Codes of places and organisations (GB/T 2260, GB 32100-2015; domain reference B2)."""

import pytest

from mesh import regions


class TestValid:
    def test_takes_six_nine_and_twelve_digits(self) -> None:
        good = ("360423", "360000", "360423100", "360423100201")
        bad = ("", "36042", "3604230", "060423", "36042x", "3６0423", "360423\n", "٣60423", "360423100201000")
        assert [c for c in good if not regions.valid(c)] == []
        assert [c for c in bad if regions.valid(c)] == []

    def test_refuses_a_level_of_what_is_none(self) -> None:
        with pytest.raises(ValueError, match="neither"):
            regions.level("36042")


class TestLevel:
    @pytest.mark.parametrize(
        ("code", "level"),
        [("360000", 5), ("360400", 4), ("360423", 3), ("441900", 4), ("360423100", 2), ("360423100201", 1)],
    )
    def test_is_read_off_the_code(self, code: str, level: int) -> None:
        assert regions.level(code) == level


class TestContains:
    @pytest.mark.parametrize(
        ("outer", "inner", "expected"),
        [
            ("360000", "360423", True), ("360000", "360000", True), ("360000", "370000", False),
            ("360400", "360423100201", True), ("360400", "360500", False), ("360400", "360000", False),
            ("360423", "360423", True), ("360423", "360423100201", True), ("360423", "360424", False),
            ("360423", "360400", False), ("360423100", "360423100201", True),
            ("360423100", "360423101201", False), ("360423100", "360423", False),
            ("360423100201", "360423100", False),
        ],
    )  # fmt: skip
    def test_is_the_subtree(self, outer: str, inner: str, expected: bool) -> None:
        assert regions.contains(outer, inner) == expected
        if len(inner) == 12:
            low, high = regions.bounds(outer)
            assert (low <= inner <= high) == expected


class TestUscc:
    @pytest.mark.parametrize(
        "code",
        [
            "91350100M000100Y43", "12441500196720244T", "11370321004221396B", "11500108009295802G",
            "11152105011615166F", "11511301008778183N", "91360423TE5T000169", "N2360423TE5T00024K",
            "54360423TE5T00032R", "93220322TE5T00040Q", "12320582TE5T00059Y", "11210115TE5T00067C",
        ],
    )  # fmt: skip
    def test_takes_right_check_characters_and_no_other(self, code: str) -> None:
        assert regions.uscc_valid(code)
        others = [c for c in "0123456789ABCDEFGHJKLMNPQRTUWXY" if c != code[-1]]
        assert not any(regions.uscc_valid(code[:-1] + c) for c in others)

    def test_gives_0_and_not_31_when_the_remainder_is_0(self) -> None:
        body = next(b for b in (f"91360423TE5T{n:05d}" for n in range(1000)) if _sum(b) % 31 == 0)
        assert regions.uscc_valid(body + "0")

    def test_refuses_letters_that_are_not_used(self) -> None:
        for code in ("", "9" * 18 + "0", "I1350100M000100Y43", "91350100m000100Y43", "9135O100M000100Y43"):
            assert not regions.uscc_valid(code)


def _sum(body: str) -> int:
    weights = (1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28)
    alphabet = "0123456789ABCDEFGHJKLMNPQRTUWXY"
    return sum(alphabet.index(c) * w for c, w in zip(body, weights, strict=True))


class TestTokens:
    def test_are_the_three_parts(self) -> None:
        assert regions.tokens("360423") == "36.04.23"
