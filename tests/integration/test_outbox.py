"""Events leave the outbox when they are old and everybody has them, and nothing else does; on both
databases."""

from typing import Any

import pytest

from mesh import outbox, replication, trust
from tests.county import REGION, County
from tests.integration.test_audit_proof import proof
from tests.loop import file, rows, steps, take
from village.mesh.v1 import bundle_pb2


def numbers(county: County) -> list[Any]:
    return [n for (n,) in rows(county, "SELECT number FROM mesh_outbox ORDER BY id")]


def publish(county: County) -> outbox.Log:
    """What the relay does, with a broker that takes everything."""
    log = outbox.Log(county.store, county.store.grants.of(REGION))
    log.take_over()
    while log.number():
        pass
    log.published = max([log.published, *(row[-1] for row in log.rows(log.published))])
    log.number()
    return log


@pytest.fixture
def old(county: County) -> County:
    """Published events of 31 days ago (what a county begins with, and seven reports), two published ones and
    two others of today."""
    for _ in range(7):
        file(county)
    publish(county)
    county.pass_time(days=31)
    for _ in range(2):
        file(county)
    publish(county)
    for _ in range(2):
        file(county)
    return county


def aged(county: County) -> int:
    """How many of them are of 31 days ago."""
    return len(numbers(county)) - 4


class TestTrim:
    def test_deletes_what_is_old_and_published(self, old: County) -> None:
        first, count = numbers(old)[0], aged(old)
        old.hosted.renew()
        assert numbers(old) == [first + count, first + count + 1, None, None]

    def test_keeps_what_the_broker_does_not_have(self, old: County) -> None:
        old.pass_time(days=31)
        outbox.trim(old.store, old.now)
        assert numbers(old) == [None, None]

    def test_keeps_what_is_not_old_to_the_day(self, old: County) -> None:
        old.pass_time(days=-2)
        assert outbox.trim(old.store, old.now) == 0

    def test_keeps_what_somebody_has_not_confirmed(self, old: County) -> None:
        first, key, count = numbers(old)[0], (REGION, 1, 1), aged(old)
        assert outbox.trim(old.store, old.now, {key: first + 2}) == 3
        assert numbers(old)[0] == first + 3
        assert outbox.trim(old.store, old.now, {key: 0}) == 0
        assert outbox.trim(old.store, old.now, {key: 10**9, ("360424", 1, 1): 0}) == count - 3

    def test_waits_for_those_who_copy_it_and_for_no_others(self, old: County) -> None:
        """A city between the county and its province copies what is above it, and its own."""
        nodes = {r: bundle_pb2.NodeEntry(region=r) for r in ("360000", "360400", REGION, "360424")}
        grants = {(REGION, "habitat"): bundle_pb2.GrantEntry(region=REGION, domain="habitat", node=REGION)}
        view = trust.View("360000", 1, old.now, old.now, nodes, grants, ())
        key = (REGION, 1, 1)
        assert replication.confirmed(old.store, view, REGION) == {key: 0}
        old.store.confirmed[REGION, "360000"] = (1, 1, 5)
        assert replication.confirmed(old.store, view, REGION) == {key: 5}

    def test_takes_few_at_a_time(self, old: County, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outbox, "TRIMMED", 3)
        real, gone = old.store.database.transact, []

        def transact(work: Any) -> Any:
            gone.append(real(work))
            return gone[-1]

        count = aged(old)
        monkeypatch.setattr(old.store.database, "transact", transact)
        assert outbox.trim(old.store, old.now) == sum(gone) == count
        assert max(gone) == 3

    def test_leaves_records_histories_and_the_trail_alone(self, old: County) -> None:
        old.hosted.tick()
        before = proof(old)
        names = [name for (name,) in rows(old, "SELECT name FROM reports ORDER BY name")]
        old.hosted.renew()
        assert proof(old) == before
        assert before.wrong == ()
        assert len(names) == 11
        take(old, "accept", names[0])
        assert [s.action for s in steps(old, names[0])][-1] == "accept"


class TestRewind:
    def test_after_a_lost_broker_finds_what_is_left_in_its_order(self, old: County) -> None:
        first = numbers(old)[0] + aged(old)
        old.hosted.renew()
        log = publish(old)
        log.rewind(old.now)
        assert [row[-1] for row in log.rows(log.published)] == [first + n for n in range(4)]

    def test_goes_on_behind_the_last_number_when_nothing_is_left(self, old: County) -> None:
        last = publish(old).published
        old.pass_time(days=31)
        old.hosted.renew()
        assert numbers(old) == []
        log = publish(old)
        log.rewind(old.now)
        file(old)
        log.number()
        assert [row[-1] for row in log.rows(log.published)] == [last + 1]
