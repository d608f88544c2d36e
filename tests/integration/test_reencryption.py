"""Old values come under the newest key while records are worked on, nobody notices, and the old key can go;
on both databases."""

import concurrent.futures
import json
import uuid
from collections.abc import Callable
from typing import Any

import click.testing
import pytest
import sqlalchemy as sa

from cli import main, reencrypt, serve
from mesh import keys
from tests.county import County
from tests.integration.test_commit import filing
from tests.integration.test_deputies_and_seals import CONTACT, approve, opened, seal
from tests.loop import file, reach, rows, steps, take, written
from village.habitat.v1 import report_pb2 as pb

KEPT = {
    "reports": "name, version, digest, owner, alarm_time", "mesh_outbox": "id, payload",
    "mesh_audit": "id, digest", "mesh_step": "name, number, action", "mesh_request": "caller, fingerprint",
}  # fmt: skip
"""What must stay as it is."""


def kept(county: County) -> dict[str, Any]:
    return {
        table: [tuple(r) for r in rows(county, f"SELECT {columns} FROM {table} ORDER BY 1, 2")]
        for table, columns in KEPT.items()
    }


def go(county: County, *, write: bool = True) -> reencrypt.Found:
    return reencrypt.go_through(county.store.database, county.hosted.service, county.settings, write=write)


def ciphertexts(county: County) -> str:
    """Everything that tables hold in which something is encrypted."""
    tables = ("reports", "mesh_step", "mesh_request", "unsealings")
    return str([tuple(r) for t in tables for r in rows(county, f"SELECT * FROM {t}")])


def rotate(county: County) -> None:
    for path in (county.settings.key_ring, county.settings.seal_ring):
        assert keys.rotate(path) == "k2"
    county.chain.rings.refresh()


def retire(county: County) -> None:
    for path in (county.settings.key_ring, county.settings.seal_ring):
        keys.retire(path, "k1")
    county.chain.rings.refresh()


class TestPass:
    def test_lets_the_old_key_go_and_every_value_be_read(self, county: County) -> None:
        request = filing(str(uuid.uuid4()), contact=CONTACT)
        first = county.call("resident", request)
        report = reach(county, "ASSESSED", contact=CONTACT, description="北岸村口")
        unsealing = seal(county, report.name)
        approve(county, unsealing)
        shown = [county.call("county", pb.GetReportRequest(name=report.name)), steps(county, report.name),
                 opened(county, unsealing)]  # fmt: skip
        before = kept(county)
        rotate(county)
        found = go(county)
        assert found.damaged == []
        assert found.old["key_ring"]["k1"] > 10
        assert found.old["seal_ring"]["k1"] >= 2
        assert "k1:" not in ciphertexts(county)
        assert {n: o.total() for n, o in go(county, write=False).old.items()} == {
            "key_ring": 0, "seal_ring": 0,
        }  # fmt: skip
        after = kept(county)
        assert after == before
        retire(county)
        county.store.rings.refresh()
        assert shown == [county.call("county", pb.GetReportRequest(name=report.name)),
                         steps(county, report.name), opened(county, unsealing)]  # fmt: skip
        assert county.call("resident", request) == first

    def test_changes_nothing_when_there_is_nothing_to_do(self, county: County) -> None:
        file(county, contact=CONTACT)
        before = ciphertexts(county)
        assert go(county).old["key_ring"].total() == 0
        assert ciphertexts(county) == before

    def test_goes_on_where_it_was_broken_off(self, county: County, monkeypatch: pytest.MonkeyPatch) -> None:
        for _ in range(5):
            file(county, contact=CONTACT)
        rotate(county)
        monkeypatch.setattr(reencrypt, "CHUNK", 2)
        real, left = county.store.database.transact, [2]

        def transact(work: Callable[[Any], Any]) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return real(work)

        monkeypatch.setattr(county.store.database, "transact", transact)
        with pytest.raises(KeyboardInterrupt):
            go(county)
        monkeypatch.undo()
        rest = go(county, write=False).old["key_ring"]["k1"]
        assert 0 < rest < 5 * 4
        assert go(county).old["key_ring"]["k1"] == rest
        assert "k1:" not in ciphertexts(county)

    def test_names_what_does_not_open_and_renews_the_rest(self, county: County) -> None:
        one, two = file(county), file(county)
        with county.store.database.engine.connect() as connection:
            swap = sa.text("UPDATE reports SET description = :d WHERE name = :n")
            connection.execute(swap, {"d": "k1:" + "A" * 64, "n": one.name})
            connection.commit()
        rotate(county)
        assert go(county).damaged == [f"reports/{one.name}"]
        left = go(county, write=False)
        assert left.old["key_ring"]["k1"] >= 1
        assert county.row(two.name).message.description


class TestBesideCalls:
    def before(
        self, county: County, monkeypatch: pytest.MonkeyPatch, table: str, meanwhile: Callable[[], Any]
    ) -> None:
        """Lets `meanwhile` happen once, between the reading and the writing of a table by the pass."""
        real, done = county.store.database.transact, []

        def transact(job: Any) -> Any:
            of = getattr(job, "args", ())
            if not done and len(of) > 1 and of[1].table.name == table:
                done.append(None)
                meanwhile()
            return real(job)

        monkeypatch.setattr(county.store.database, "transact", transact)

    def test_keeps_a_change_that_came_between(self, county: County, monkeypatch: pytest.MonkeyPatch) -> None:
        report = file(county, contact=CONTACT)
        rotate(county)

        self.before(county, monkeypatch, "reports", lambda: take(county, "accept", report.name))
        go(county)
        row = county.row(report.name)
        assert (row.version, row.message.state) == (2, pb.Report.STATE_ACCEPTED)
        assert [s.action for s in steps(county, report.name)] == ["file", "accept"]
        assert "k1:" not in ciphertexts(county)

    def test_holds_up_a_change_and_does_not_undo_it(
        self, county: County, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On PostgreSQL the change finds the row locked, and then of the same version in other bytes."""
        report = file(county, contact=CONTACT)
        rotate(county)
        real = county.store.database.transact
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            late: list[Any] = []

            def job_with_a_call(job: Callable[[Any], Any]) -> Any:
                def work(cursor: Any) -> Any:
                    done = job(cursor)
                    if not late:
                        late.append(pool.submit(take, county, "accept", report.name))
                        with pytest.raises(TimeoutError):
                            late[0].result(0.3)
                    return done

                return real(work)

            monkeypatch.setattr(county.store.database, "transact", job_with_a_call)
            go(county)
            assert late[0].result(10).state == pb.Report.STATE_ACCEPTED
        row = county.row(report.name)
        assert (row.version, row.message.state) == (2, pb.Report.STATE_ACCEPTED)
        assert row.message.contact.phone == "13800138000"

    @pytest.mark.parametrize("table", ["reports", "mesh_step"])
    def test_leaves_erased_what_was_erased_between(
        self, county: County, monkeypatch: pytest.MonkeyPatch, table: str
    ) -> None:
        report = reach(county, "ASSESSED")
        rotate(county)
        erasure = pb.EraseReportRequest(name=report.name, purpose="本人申请")
        self.before(county, monkeypatch, table, lambda: county.call("resident", erasure))
        go(county)
        assert county.row(report.name).message.HasField("erase_time")
        assert {step.reason for step in steps(county, report.name)} == {""}
        assert county.row(report.name).message.description == ""


class TestCommand:
    def test_says_what_is_left_and_retires_a_key_only_then(
        self, county: County, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file(county, contact=CONTACT)
        monkeypatch.setattr(serve, "of_node", lambda _: (county.settings, ["habitat"]))
        rotate(county)

        def run(*words: str) -> click.testing.Result:
            command = ["keys", *words, "--data", str(county.folder)]
            return click.testing.CliRunner().invoke(main.main, command)

        refused = run("retire", "k1")
        assert refused.exit_code == 1
        assert "values are under k1" in refused.output
        done = run("re-encrypt")
        assert done.exit_code == 0, done.output
        assert done.output.count("none are left") == 2
        assert run("retire", "k2").exit_code == 1
        assert run("retire", "k1").exit_code == 0
        assert list(json.loads(county.settings.key_ring.read_text())["keys"]) == ["k2"]
        before = written(county)
        assert run("retire", "k1").exit_code == 1
        assert written(county) == before
