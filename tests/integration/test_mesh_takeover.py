"""A county that is lost: the province takes over from its copy (接管), two officers deciding; what the copy
lacked is set aside when the county comes back. And copies that were damaged: compared and mended (对账)."""

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.test_mesh_moves import REPORTS, agree, filed, writer
from tests.mesh import PROVINCE, WUNING, Answer, Mesh, report
from tests.waiting import until

HANDOVERS = f"/mesh/v1/regions/{PROVINCE}/handovers"
REPORT = "village.habitat.v1.Report"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Mesh(tmp_path_factory.mktemp("mesh"), {WUNING: ("habitat",)}) as started:
        for _ in range(6):
            filed(started.wuning, started.wuning.token("CZ"))
        until(started.caught_up)
        yield started


class TestReconcile:
    def compared(self, mesh: Mesh, *, only: bool) -> dict[str, Any]:
        asked = {"aboutRegion": WUNING, "domain": "habitat", "onlyCompare": only}
        found = mesh.ask("POST", f"/mesh/v1/regions/{PROVINCE}/copies:reconcile", asked)
        assert found.status == 200, found.body
        return {d["kind"]: d for d in found.body["differences"]}

    def test_names_what_differs_and_mends_it(self, mesh: Mesh) -> None:
        assert self.compared(mesh, only=True) == {}
        before = mesh.province.reports()
        lost, altered, older, *_ = sorted(before)
        added = f"regions/{WUNING}/reports/ffffffff-0000-7000-8000-000000000000"
        path = mesh.province.data / "data/habitat.db"
        with contextlib.closing(sqlite3.connect(path, timeout=20)) as database, database:
            names = [row[1] for row in database.execute("PRAGMA table_info(reports)")]
            same = ", ".join("?" if name == "name" else name for name in names)
            database.execute(f"INSERT INTO reports SELECT {same} FROM reports WHERE name = ?", (added, lost))
            database.execute("DELETE FROM reports WHERE name = ?", (lost,))
            database.execute("UPDATE reports SET digest = 'x' WHERE name = ?", (altered,))
            database.execute("UPDATE reports SET version = 7 WHERE name = ?", (older,))
        found = self.compared(mesh, only=True)
        assert list(found) == [REPORT]
        assert (found[REPORT]["missing"], found[REPORT]["extra"]) == ([lost], [added])
        assert found[REPORT]["other"] == [altered, older]
        counts = [int(found[REPORT][f"{k}Count"]) for k in ("missing", "other", "extra")]
        assert (counts, found[REPORT]["here"], found[REPORT]["there"]) == ([1, 2, 1], "6", "6")
        assert mesh.province.reports() != before, "it was only to be compared"
        assert list(self.compared(mesh, only=False)) == [REPORT]
        assert mesh.province.reports() == before == mesh.wuning.reports()
        assert self.compared(mesh, only=True) == {}
        token = mesh.province.token("PA")
        told = {"x-village-read": "replica"}
        mended = mesh.province.call("GET", f"/habitat/v1/{lost}", token=token, headers=told)
        assert (mended.status, mended.served_by, mended.body["etag"]) == (200, PROVINCE, "1")


class TestTakeover:
    def ask(self, mesh: Mesh, reason: str, who: str = "officer-1") -> Answer:
        asked = {"aboutRegion": WUNING, "domain": "habitat", "receiver": PROVINCE, "reason": reason}
        token = mesh.province.token("PA", subject=who)
        return mesh.province.call("POST", f"{HANDOVERS}:takeOver", asked, token=token)

    def approve(self, mesh: Mesh, name: str, who: str) -> Answer:
        token = mesh.province.token("PA", subject=who)
        return mesh.province.call("POST", f"/mesh/v1/{name}:approve", {}, token=token)

    def letters(self, mesh: Mesh) -> list[dict[str, Any]]:
        path = f"/habitat/v1/regions/{PROVINCE}/deadLetters?pageSize=500&filter=settled%20%3D%20false"
        found = mesh.province.call("GET", path, token=mesh.province.token("ADM"))
        assert found.status == 200, found.body
        return list(found.body["deadLetters"])

    def drop(self, mesh: Mesh, letters: list[dict[str, Any]]) -> None:
        """What an officer does who has decided on them."""
        for letter in letters:
            path = f"/habitat/v1/{letter['name']}:drop"
            dropped = mesh.province.call("POST", path, {}, token=mesh.province.token("ADM"))
            assert dropped.status == 200, dropped.body

    def test_by_two_officers_lets_the_province_write_and_sets_aside_what_it_never_saw(
        self, mesh: Mesh
    ) -> None:
        county, province, official = mesh.wuning, mesh.province, mesh.wuning.token("KA")
        resident = county.token("CZ")
        until(mesh.caught_up)
        known = set(province.reports())
        mesh.line.cut()
        late = [filed(county, resident) for _ in range(3)]
        first = min(known)
        accepted = county.call("POST", f"/habitat/v1/{first}:accept", {}, token=official)
        assert accepted.status == 200
        until(lambda: all(n for _, _, n, _ in county.logged()))
        county.stop()
        with contextlib.closing(sqlite3.connect(county.data / "data/habitat.db")) as database, database:
            database.execute("UPDATE mesh_ownership SET incarnation = 2")  # as after a restore
        county.start(province=mesh.address(county), code="-")
        late.append(filed(county, resident))
        until(lambda: all(n for _, _, n, _ in county.logged()))
        aside = {key for _, _, _, key in county.logged()} - {key for _, _, _, key in province.logged()}
        assert len(aside) == 5
        county.stop()
        stuck = mesh.hand_over(PROVINCE).body["name"]  # before anybody knew that the county is lost
        deferred = province.file(token=resident)
        delivery, waiting = deferred.headers["x-village-delivery"], deferred.body["name"]

        assert self.ask(mesh, "").reason == "INVALID"
        asked = self.ask(mesh, "县机房进水")
        assert asked.body["state"] == "STATE_REQUESTED", asked.body
        name = asked.body["name"]
        assert self.ask(mesh, "县机房进水", "officer-3").reason == "HANDOVER_UNDER_WAY"
        assert self.approve(mesh, name, "officer-1").reason == "SAME_OFFICER"
        assert writer(mesh) == WUNING
        approved = self.approve(mesh, name, "officer-2")
        assert approved.body["forced"], approved.body
        assert self.approve(mesh, name, "officer-3").reason == "HANDOVER_DECIDED"
        mesh.reaches(name)
        mesh.reaches(stuck, "REVERTED")
        assert writer(mesh) == PROVINCE
        told = f"/habitat/v1/{delivery}"
        until(lambda: province.call("GET", told).body["state"] == "STATE_APPLIED")
        assert waiting in province.reports()
        new = filed(province, resident)
        done = province.call("POST", f"/habitat/v1/{first}:accept", {}, token=official)
        assert (done.status, done.served_by, done.body["etag"]) == (200, PROVINCE, "2")
        rings = province.rows("SELECT name FROM reports WHERE alarm_time IS NOT NULL")
        assert {n for (n,) in rings} == {*known, new, waiting}

        county.start(province=mesh.address(county), code="-")
        mesh.line.restore()
        found = until(lambda: len(seen := self.letters(mesh)) >= 5 and seen)
        assert {(letter["reaction"], letter["why"]) for letter in found} == {("takeover", "LATE")}
        told = {h["value"] for letter in found for h in letter["headers"] if h["key"] == "ce-id"}
        assert told == aside
        assert not set(late) & province.reports().keys()
        asked_there = f"SELECT frozen FROM mesh_ownership WHERE region = '{WUNING}'"
        until(lambda: county.rows(asked_there) == [(1,)], 10)  # it has heard, soon
        again = county.call("POST", REPORTS, report(), token=resident)
        assert (again.status, again.served_by) == (200, PROVINCE)
        assert again.body["name"] in province.reports()
        agree(mesh)

        # somebody decides on what was set aside; until then the county keeps all it knows of it
        until(lambda: set(province.reports()) <= set(county.reports()))
        told = until(lambda: (it := mesh.handover(name)).get("trouble") and it)
        assert (told["late"], told["trouble"].split()[0]) == ("5", "5")
        words = f"SELECT name FROM reports WHERE region = '{WUNING}' AND description <> ''"
        assert set(late) <= {n for (n,) in county.rows(words)}
        self.drop(mesh, found)
        done = until(lambda: (it := mesh.handover(name)).get("reduceTime") and it, 40)
        assert not done.get("trouble")
        assert county.rows(words) == []
        assert county.reports() == province.reports(), "what only the county had is gone"
        assert self.letters(mesh) == []

        # handed back, the county has what the province has, and nothing more is set aside
        mesh.move(WUNING)
        assert writer(mesh) == WUNING
        assert county.reports() == province.reports()
        filed(county, resident)
        until(mesh.caught_up)
        agree(mesh)
        assert self.letters(mesh) == []
