"""Clocks that differ, and a week without a line (I8): people are served, what a wrong clock makes impossible
is refused with a reason that the administrator reads, and afterwards all have the same."""

import datetime
import pathlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from deploy.local import doctor
from deploy.local import node as local
from mesh import resources, trust
from tests.clock import Clock
from tests.mesh import PROVINCE, WUNING, Answer, Mesh, Node
from tests.waiting import until

WEEK = datetime.timedelta(days=7)
REPORTS = f"/habitat/v1/regions/{WUNING}/reports"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("mesh")


@pytest.fixture(scope="module")
def running(folder: pathlib.Path) -> Iterator[Mesh]:
    """A mesh that begins a week ago: Envoy takes certificates of then, but none of a week to come."""
    with Mesh(folder, {WUNING: ("habitat",)}, Clock(folder / "week", -WEEK)) as started:
        yield started


@pytest.fixture
def mesh(running: Mesh) -> Iterator[Mesh]:
    """The mesh; afterwards its line is good and its clocks are right."""
    yield running
    running.line.restore()
    for node in (running.province, running.wuning):
        if node.clock is not None:
            goes_by(running, node, None)
    until(running.well, 30)


def goes_by(mesh: Mesh, node: Node, clock: Clock | None) -> None:
    """Starts a node again, by another clock."""
    node.stop()
    node.clock = clock
    if node is mesh.province:
        node.start()
    else:
        node.start(province=mesh.address(node), code="-")


def filed(node: Node, count: int = 1) -> list[str]:
    """The names of reports that were filed at the county, by several people at once."""
    token = node.token("CZ")

    def file(_: int) -> str:
        found = node.file(token=token)
        assert (found.status, found.served_by) == (200, WUNING), found.body
        return str(found.body["name"])

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(file, range(count)))


def agree(mesh: Mesh) -> None:
    """The province has what the county has, each event once, and says so itself."""
    until(mesh.caught_up, 60)
    events = mesh.wuning.logged()
    assert [number for _, _, number, _ in events] == list(range(1, len(events) + 1))
    until(lambda: mesh.province.logged() == events)
    wanted = Counter(key for *_, key in events)
    until(lambda: Counter(mesh.province.published()) == wanted, 30)
    asked = {"aboutRegion": WUNING, "domain": "habitat", "onlyCompare": True}
    compared = mesh.ask("POST", f"/mesh/v1/regions/{PROVINCE}/copies:reconcile", asked)
    assert (compared.status, compared.body["differences"]) == (200, []), compared.body


def examined(node: Node) -> str:
    """What is bad by `doctor`, typed on the node's own machine."""
    if node.clock is not None:
        return node.clock.run("doctor", "--data", str(node.data)).stdout
    return "\n".join(f"{f.verdict} {f.what}" for f in doctor.examine(node.data) if f.verdict == "bad")


def trusted(node: Node) -> datetime.datetime:
    told = local.ask(f"http://127.0.0.1:{node.port}")
    return datetime.datetime.fromisoformat(told["trustExpireTime"])


def _instant() -> str:
    """Now, as it stands in the database."""
    return str(resources.instant(resources.utcnow(), sqlite=True))


class TestWeek:
    def test_without_a_line_loses_nothing_and_doubles_nothing(self, mesh: Mesh) -> None:
        county, province = mesh.wuning, mesh.province
        before = filed(county, 100)
        until(mesh.caught_up)
        official, resident = county.token("KA"), county.token("CZ")
        mesh.line.cut()
        then = filed(county, 150)
        for name in then[:5]:
            assert county.call("POST", f"/habitat/v1/{name}:accept", {}, token=official).status == 200
        deferred = province.file(token=resident)
        assert deferred.status == 200, deferred.body
        delivery = f"/habitat/v1/{deferred.headers['x-village-delivery']}"
        day = datetime.datetime.fromisoformat(province.call("GET", delivery).body["callTime"])
        assert abs(day - (resources.utcnow() - WEEK)) < datetime.timedelta(minutes=10)

        for node in (province, county):
            goes_by(mesh, node, None)
        assert trusted(county) < resources.utcnow() + trust.LIFE - WEEK + datetime.timedelta(minutes=10)
        now = filed(county, 150)
        until(lambda: not county.rows(f"SELECT name FROM reports WHERE alarm_time < '{_instant()}'"), 30)
        missed = {n for (n,) in county.rows(f"SELECT name FROM reports WHERE due_time < '{_instant()}'")}
        raised = county.rows("SELECT name, level FROM mesh_step WHERE action = 'escalate'")
        assert {name for name, _ in raised} == missed <= {*before, *then}
        assert set(Counter(raised).values()) <= {1}, "to each level once, for every day that went by"
        assert not set(then) & province.reports().keys(), "the line is cut"

        mesh.line.restore()
        until(lambda: province.call("GET", delivery).body["state"] == "STATE_APPLIED", 30)
        agree(mesh)
        late = deferred.body["name"]
        assert county.reports().keys() == {*before, *then, *now, late}
        found = county.call("GET", f"/habitat/v1/{late}", token=county.token("KA"))
        assert datetime.datetime.fromisoformat(found.body["fileTime"]) == day
        until(lambda: trusted(county) > resources.utcnow() + trust.LIFE - datetime.timedelta(hours=1), 40)


class TestClocks:
    def read(self, mesh: Mesh, name: str, **told: Any) -> Answer:
        token = mesh.province.token("PA")
        return mesh.province.call("GET", f"/habitat/v1/{name}", token=token, headers=told)

    def test_some_hours_apart_copy_and_say_so(self, mesh: Mesh, folder: pathlib.Path) -> None:
        county, province = mesh.wuning, mesh.province
        goes_by(mesh, province, None)
        goes_by(mesh, county, Clock(folder / "ahead", datetime.timedelta(hours=3)))
        (name,) = filed(county)
        until(mesh.caught_up)
        copy = self.read(mesh, name, **{"x-village-read": "replica"})
        assert (copy.status, copy.served_by) == (200, PROVINCE)
        assert copy.as_of is not None
        assert copy.as_of <= resources.utcnow(), "it is as old as by the clock of whoever reads it"
        for at, token in ((province, county.token("KA")), (county, province.token("PA"))):
            refused = at.call("GET", f"/habitat/v1/{name}", token=token)
            assert (refused.status, refused.reason) == (401, "UNAUTHENTICATED")
        assert (
            "the token is not valid yet"
            in province.call("GET", REPORTS, token=county.token("KA")).body["message"]
        )
        until(lambda: local.ask(f"http://127.0.0.1:{county.port}").get("clockAhead"))
        said = examined(county)
        assert "the clock is 3:00:0" in said
        assert "ahead of the province's" in said
        assert county.clock is not None
        assert "WRONG: +108" in county.clock.run("status", "--data", str(county.data)).stdout
        agree(mesh)

    def test_further_apart_do_not_believe_each_other_and_agree_again_when_they_are_set(
        self, mesh: Mesh, folder: pathlib.Path
    ) -> None:
        county, province = mesh.wuning, mesh.province
        goes_by(mesh, province, None)
        goes_by(mesh, county, None)
        (known,) = filed(county)
        until(mesh.caught_up)
        goes_by(mesh, county, Clock(folder / "behind", datetime.timedelta(hours=-8)))
        names = filed(county, 20)  # its own people are served
        copy = self.read(mesh, known)
        assert (copy.status, copy.served_by) == (200, PROVINCE)
        owner = {"x-village-read": "owner"}
        until(lambda: self.read(mesh, known, **owner).reason != "NOT_DELIVERED")  # its line is up
        refused = self.read(mesh, known, **owner)
        assert (refused.status, refused.reason) == (503, "NOT_BELIEVED")
        assert "a clock is wrong" in refused.body["message"]
        deferred = province.file(token=province.token("CZ", WUNING))
        assert deferred.headers["x-village-delivery"]
        until(
            lambda: (
                "a clock is wrong" in local.ask(f"http://127.0.0.1:{province.port}")["copies"][0]["trouble"]
            )
        )
        assert "a clock is wrong" in examined(province)
        until(lambda: local.ask(f"http://127.0.0.1:{county.port}")["lineTrouble"])
        said = examined(county)
        assert "the province gives no news" in said
        assert "a clock is wrong" in said
        assert not set(names) & province.reports().keys()

        goes_by(mesh, county, None)
        until(lambda: deferred.body["name"] in county.reports(), 30)
        agree(mesh)
        assert {known, *names} <= province.reports().keys()
        for node in (county, province):
            assert "clock is wrong" not in examined(node)
            assert "ahead" not in examined(node)
