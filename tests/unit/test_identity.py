"""Caller × rule × place → yes or no; and when a caller's subject may stand in a history."""

import itertools

import pytest

from mesh import contract, identity
from village.options.v1 import options_pb2

CASES = list(itertools.product(("360423", "360423100", "360424", "360400", "360000", "110000"), repeat=2))


def permitted(caller: identity.Caller, place: identity.Place | None, **rule: object) -> bool:
    usual = {"roles": frozenset({"KA"}), "scope": options_pb2.SCOPE_SUBTREE, "handling_unit": False,
             "differs_from": (), **rule}  # fmt: skip
    made = contract.Rule(**usual)  # type: ignore[arg-type]
    method = contract.Method("/x", "X", None, None, (made,), False, frozenset())  # type: ignore[arg-type]
    try:
        identity.permit(method, caller, place)
    except identity.errors.Refusal:
        return False
    return True


def official(region: str, **more: object) -> identity.Caller:
    return identity.Caller(**{"subject": "x", "roles": frozenset({"KA"}), "region": region, **more})  # type: ignore[arg-type]


class TestScope:
    @pytest.mark.parametrize(("mine", "theirs"), CASES)
    def test_subtree_reaches_down_and_never_up_or_aside(self, mine: str, theirs: str) -> None:
        division = theirs if len(theirs) > 6 else theirs.ljust(12, "1")
        place = identity.Place(theirs[:6], division)
        start = {"360400": "3604", "360000": "36", "110000": "11"}.get(mine, mine)
        assert permitted(official(mine), place) == division.startswith(start)

    @pytest.mark.parametrize(("mine", "theirs"), CASES)
    def test_own_region_never_reaches_another(self, mine: str, theirs: str) -> None:
        place = identity.Place(theirs[:6], theirs if len(theirs) > 6 else theirs.ljust(12, "1"))
        if permitted(official(mine), place, scope=options_pb2.SCOPE_OWN_REGION):
            assert mine[:6] == theirs[:6]

    def test_own_records_are_the_caller_s_and_in_his_region(self) -> None:
        own = {"scope": options_pb2.SCOPE_OWN_RECORDS}
        assert permitted(official("360423"), identity.Place("360423", "360423100201", own=True), **own)
        assert not permitted(official("360423"), identity.Place("360423", "360423100201", own=False), **own)
        assert not permitted(official("360424"), identity.Place("360423", "360423100201", own=True), **own)

    def test_public_is_for_all_and_else_a_token_is_needed(self) -> None:
        place = identity.Place("360423")
        assert permitted(identity.PUBLIC, place, scope=options_pb2.SCOPE_PUBLIC, roles=frozenset())
        assert not permitted(identity.PUBLIC, place)
        assert not permitted(identity.PUBLIC, None)

    def test_without_a_place_only_roles_count(self) -> None:
        assert permitted(official("110000"), None)
        assert not permitted(official("360423", roles=frozenset({"CZ"})), None)


class TestCaller:
    @pytest.mark.parametrize(
        ("roles", "expected"), [("KA", True), ("GR", True), ("CZ", False), ("EN", False), ("CZ VO", True)]
    )
    def test_stands_in_histories_by_name_only_as_an_official(self, roles: str, expected: bool) -> None:
        assert official("360423", roles=frozenset(roles.split())).official == expected
