"""Two domains on one slow line (I8): while a backlog of one fills it, what is urgent overtakes, and calls
pass. The second domain is the trial's, which both nodes run beside habitat; that it is urgent stands in its
`Service`."""

import contextlib
import os
import pathlib
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from bench.backlog import INSERT, Backlog
from deploy.local import prepare
from tests.mesh import PROVINCE, WUNING, Mesh
from tests.trial import domain
from tests.waiting import until

SLOW_BYTES, EVENTS, TIMES = 128 * 1024, 1_500, 12
REGIONS = [str(int(WUNING) + n) for n in range(10)]
"""What the node is the owner of: each has a log of its own, which takes its turn."""
PATIENCE_S = 1.0
SITE = """
import pathlib, services
services.__path__.append(str(pathlib.Path(__file__).parent / "services"))
"""
SERVICE = """
import dataclasses
from tests.trial import domain
SERVICE = dataclasses.replace(domain.service(), urgent=True, seed=None, reacts=())
"""


@contextlib.contextmanager
def both_domains(folder: pathlib.Path) -> Iterator[None]:
    """Nodes that are started meanwhile find a service of the trial, and run it."""
    (folder / "services/trial").mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(SITE)
    (folder / "services/trial/service.py").write_text(SERVICE)
    usual, programs = prepare.python_environment, prepare._programs
    path = f"{folder}{os.pathsep}{usual()['PYTHONPATH']}"

    def with_trial(*about: Any) -> list[dict[str, Any]]:
        found = programs(*about)
        for program in found:
            if program["name"] == "services":
                program["command"].insert(-1, "trial")
                more = program["environment"]["VILLAGEMESH_DOMAINS"] + ",trial"
                program["environment"] = {**program["environment"], "VILLAGEMESH_DOMAINS": more}
        return found

    prepare.python_environment, prepare._programs = lambda: {"PYTHONPATH": path}, with_trial
    try:
        yield
    finally:
        prepare.python_environment, prepare._programs = usual, programs


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("mesh")
    with both_domains(folder / "more"), Mesh(folder, {}) as started:
        started.join(WUNING, ("habitat",), started.invite(WUNING, ("habitat", "trial")))
        for region in REGIONS[1:]:
            wanted = {"aboutRegion": region, "domain": "habitat", "node": WUNING}
            assert started.ask("POST", f"/mesh/v1/regions/{PROVINCE}/grants", wanted).status == 200
        owned = "SELECT count(*) FROM mesh_ownership WHERE NOT frozen"
        until(lambda: started.wuning.rows(owned) == [(len(REGIONS),)], 30)
        yield started


def backlogs(mesh: Mesh, folder: pathlib.Path) -> None:
    """Puts events into each of the node's logs of habitat while it is cut off."""
    made = Backlog(folder)
    with contextlib.closing(sqlite3.connect(mesh.wuning.data / "data/habitat.db", timeout=30)) as database:
        owned = database.execute("SELECT region, epoch, incarnation FROM mesh_ownership").fetchall()
        for region, epoch, incarnation in owned:
            rows = (moved(row, region) for row in made.rows(EVENTS, epoch, incarnation))
            with database:
                database.executemany(INSERT, rows)
    made.close()
    waiting = "SELECT count(*) FROM mesh_outbox WHERE number IS NULL"
    until(lambda: mesh.wuning.rows(waiting) == [(0,)], 60)


def moved(row: tuple[Any, ...], region: str) -> tuple[Any, ...]:
    """An event of Wuning's as another region's; codes are of one length."""
    event_id, _, epoch, incarnation, kind, subject, name, *rest, payload = row
    there, begins = f"regions/{region}/", f"regions/{WUNING}/"
    return (
        event_id, region, epoch, incarnation, kind, subject.replace(".04.23.", f".04.{region[4:]}."),
        name.replace(begins, there), *rest, payload.replace(begins.encode(), there.encode()),
    )  # fmt: skip


def copied(mesh: Mesh) -> int:
    """How many events of the backlog the province has."""
    return int(mesh.province.rows("SELECT coalesce(sum(number), 0) FROM mesh_cursor")[0][0])


def test_an_urgent_event_and_a_call_take_less_than_a_second_while_a_backlog_fills_the_line(
    mesh: Mesh, tmp_path: pathlib.Path
) -> None:
    pb, official = domain.messages(), mesh.wuning.token("KA")
    name = mesh.wuning.file(token=mesh.wuning.token("CZ")).body["name"]
    until(mesh.caught_up)
    mesh.line.cut()
    backlogs(mesh, tmp_path / "backlog")
    first = copied(mesh)
    mesh.line.throttle(SLOW_BYTES)
    mesh.line.restore()
    until(lambda: copied(mesh) > first + 500, 30)
    headers = [("authorization", f"Bearer {official}")]
    owner = {"x-village-read": "owner"}
    events, answers = list[float](), list[float]()
    with grpc.insecure_channel(f"unix:{mesh.wuning.data}/run/services.sock") as channel:
        put = channel.unary_unary(
            "/village.trial.v1.TrialService/PutStock",
            pb.PutStockRequest.SerializeToString,
            pb.Stock.FromString,
        )
        for n in range(TIMES):
            wanted = pb.PutStockRequest(parent=domain.PARENT, stock={"quantity": n, "title": "rice"})
            kept = put(wanted, metadata=headers, timeout=10)
            begun = time.monotonic()
            there = f"SELECT 1 FROM stocks WHERE name = '{kept.name}'"
            until(lambda there=there: mesh.province.rows(there, "trial"), 30)  # type: ignore[misc]
            events.append(time.monotonic() - begun)
            begun = time.monotonic()
            found = mesh.province.call("GET", f"/habitat/v1/{name}", token=official, headers=owner)
            answers.append(time.monotonic() - begun)
            assert (found.status, found.served_by) == (200, WUNING), found.body
    assert mesh.province.rows("SELECT sum(refused) FROM mesh_cursor") == [(0,)]
    assert max(events) < PATIENCE_S, events
    assert max(answers) < PATIENCE_S, answers
    assert copied(mesh) < len(REGIONS) * EVENTS - 1000, "the line was not busy all the time"
