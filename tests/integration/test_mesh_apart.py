"""Nodes whose services run in processes of their own: `serve node` and `serve habitat` do together what one
process does with both."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.local import prepare
from gateway import envoy
from tests.integration import test_mesh_takeover
from tests.integration.test_mesh_moves import agree, filed, writer
from tests.mesh import PROVINCE, WUNING, XIUSHUI, Mesh, Node
from tests.waiting import until

DECIDING = test_mesh_takeover.TestTakeover()
COMPARING = test_mesh_takeover.TestReconcile()


def socket(domain: str) -> str:
    return f"unix:run/{domain}.sock"


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Nodes that are started inside run each domain by a process of its own, behind a socket of its own."""
    spec_of, programs_of = prepare.gateway_spec, prepare._programs

    def spec(data: pathlib.Path, plan: prepare.Plan) -> envoy.NodeSpec:
        return dataclasses.replace(spec_of(data, plan), endpoints={d: socket(d) for d in plan.services})

    def programs(data: pathlib.Path, plan: prepare.Plan, spec: envoy.NodeSpec) -> list[dict[str, Any]]:
        broker, together, gateway = programs_of(data, plan, spec)
        command, environment = together["command"], together["environment"]
        serve = command[: command.index("serve") + 1]
        own = [
            {
                "name": domain, "command": [*serve, domain], "log": f"logs/{domain}.log",
                "environment": {**environment, "VILLAGEMESH_LISTEN": socket(domain)},
            }
            for domain in plan.services
        ]  # fmt: skip
        return [broker, *own, {**together, "command": [*serve, "node"]}, gateway]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "gateway_spec", spec)
        patch.setattr(prepare, "_programs", programs)
        yield


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with apart(), Mesh(tmp_path_factory.mktemp("mesh"), {WUNING: ("habitat",)}) as started:
        filed(started.wuning, started.wuning.token("CZ"))
        until(started.caught_up)
        yield started


def says(node: Node) -> dict[str, Any]:
    """What a node says of itself, soon, whatever its services do."""
    begun = time.monotonic()
    found = node.call("GET", "/mesh/v1/node")
    assert found.status == 200, found.body
    assert time.monotonic() - begun < 3
    return dict(found.body)


def habitat(node: Node) -> dict[str, Any]:
    (service,) = says(node)["services"]
    assert service["domain"] == "habitat"
    return dict(service)


def once(mesh: Mesh, region: str = WUNING) -> None:
    """The county's events stand at the province once, in its log and at its broker."""
    ids = [key for *_, key in mesh.wuning.logged(region)]
    assert ids
    until(lambda: sorted(mesh.province.published(region)) == sorted(ids))
    assert mesh.province.logged(region) == mesh.wuning.logged(region)


class TestStatus:
    def test_shows_the_service_and_its_copies_at_both(self, mesh: Mesh) -> None:
        for node in (mesh.province, mesh.wuning):
            assert habitat(node)["ready"]
            assert node.pid("habitat") != node.pid("services")
        (copy,) = says(mesh.province)["copies"]
        assert (copy["region"], copy["domain"], copy["node"]) == (WUNING, "habitat", WUNING)
        assert int(copy["number"]) == len(mesh.wuning.logged())
        until(lambda: [c["region"] for c in says(mesh.wuning)["copies"]] == [PROVINCE])

    def test_says_so_when_the_service_is_dead_and_does_not_wait_for_one_that_hangs(self, mesh: Mesh) -> None:
        county = mesh.wuning
        with county.without("habitat"):
            dead = until(lambda: not (it := habitat(county)).get("ready") and it, 5)
            assert dead["trouble"] == "it does not answer"
            begun = time.monotonic()
            until(lambda: habitat(county)["trouble"])
            assert time.monotonic() - begun < 0.9, "the broker knows that nobody is there"
        until(lambda: habitat(county).get("ready"), 20)
        pid = county.pid("habitat")
        os.kill(pid, signal.SIGSTOP)
        try:
            assert habitat(county)["trouble"] == "it does not answer"
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: habitat(county).get("ready"), 10)
        until(mesh.well)


class TestEvents:
    def test_reach_the_province_once(self, mesh: Mesh) -> None:
        for _ in range(3):
            filed(mesh.wuning, mesh.wuning.token("CZ"))
        until(mesh.caught_up)
        once(mesh)

    def test_of_the_province_are_taken_by_the_service_alone(self, mesh: Mesh) -> None:
        until(lambda: mesh.wuning.logged(PROVINCE) == mesh.province.logged(PROVINCE))
        kept = "SELECT region FROM mesh_cursor"
        assert (mesh.wuning.rows(kept), mesh.wuning.rows(kept, "mesh")) == ([(PROVINCE,)], [])
        assert set(Counter(mesh.wuning.published(PROVINCE)).values()) == {1}


class TestGrant:
    def test_is_not_given_while_the_province_s_own_right_cannot_be_ended(self, mesh: Mesh) -> None:
        grants = f"/mesh/v1/regions/{PROVINCE}/grants"
        wanted = {"aboutRegion": XIUSHUI, "domain": "habitat", "node": WUNING}
        with mesh.province.without("habitat"):
            until(lambda: not habitat(mesh.province).get("ready"))
            assert mesh.ask("POST", grants, wanted).reason == "NOT_DELIVERED"
        until(lambda: habitat(mesh.province).get("ready"))
        granted = mesh.ask("POST", grants, wanted)
        assert granted.status == 200, granted.body
        asked = f"SELECT frozen FROM mesh_ownership WHERE region = '{XIUSHUI}'"
        until(lambda: mesh.wuning.rows(asked) == [(0,)])
        assert (0,) not in mesh.province.rows(asked)


class TestReconcile:
    def test_names_what_differs_and_mends_it(self, mesh: Mesh) -> None:
        until(mesh.caught_up)
        before = mesh.province.reports()
        lost = min(before)
        path = mesh.province.data / "data/habitat.db"
        with contextlib.closing(sqlite3.connect(path, timeout=20)) as database, database:
            database.execute("DELETE FROM reports WHERE name = ?", (lost,))
        assert COMPARING.compared(mesh, only=False)[test_mesh_takeover.REPORT]["missing"] == [lost]
        assert mesh.province.reports() == before
        assert COMPARING.compared(mesh, only=True) == {}


class TestMoves:
    def test_to_the_province_and_back(self, mesh: Mesh) -> None:
        before = mesh.wuning.reports()
        for to in (PROVINCE, WUNING):
            mesh.move(to)
            assert writer(mesh) == to
            assert mesh.province.reports() == mesh.wuning.reports() == before
        filed(mesh.wuning, mesh.wuning.token("CZ"))
        until(mesh.caught_up)
        agree(mesh)

    def test_by_two_officers_and_what_came_late_is_set_aside(self, mesh: Mesh) -> None:
        county, province, resident = mesh.wuning, mesh.province, mesh.wuning.token("CZ")
        mesh.line.cut()
        late = {filed(county, resident) for _ in range(2)}
        county.stop()
        name = DECIDING.ask(mesh, "县机房进水").body["name"]
        approved = DECIDING.approve(mesh, name, "officer-2")
        assert approved.status == 200, approved.body
        mesh.reaches(name)
        assert writer(mesh) == PROVINCE
        new = filed(province, resident)
        rings = province.rows("SELECT name FROM reports WHERE alarm_time IS NOT NULL")
        assert {n for (n,) in rings} == set(province.reports())
        county.start(province=mesh.address(county), code="-")
        mesh.line.restore()
        letters = until(lambda: len(seen := DECIDING.letters(mesh)) >= 2 and seen, 30)
        assert len(letters) == 2
        assert not late & province.reports().keys()
        until(lambda: new in county.reports(), 20)
        DECIDING.drop(mesh, letters)
        done = until(lambda: (it := mesh.handover(name)).get("reduceTime") and it, 40)
        assert (done["late"], done["trouble"]) == ("2", "")
        assert county.reports() == province.reports()
