"""A county whose disk is full (I1, I8): what writes is refused and says why, what reads goes on, and so does
the province; when there is room again, all goes on by itself and nothing is lost or half done."""

import contextlib
import os
import pathlib
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.local import doctor
from tests.mesh import PROVINCE, WUNING, XIUSHUI, Mesh, Node
from tests.waiting import until

SIZE, LITTLE = "224m", 1024 * 1024
REPORTS = f"/habitat/v1/regions/{WUNING}/reports"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """A small disk, where the county's directory is to be."""
    folder = tmp_path_factory.mktemp("mesh") / WUNING
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, f"a small disk is needed, and only root can mount one: {made.stderr}"
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def mesh(disk: pathlib.Path) -> Iterator[Mesh]:
    with Mesh(disk.parent, {WUNING: ("habitat",), XIUSHUI: ()}) as started:
        resident = started.xiushui.token("CZ")
        until(lambda: started.province.file(XIUSHUI, token=resident).status == 200)
        yield started


@contextlib.contextmanager
def full(disk: pathlib.Path) -> Iterator[None]:
    """The disk while something else takes all of it but a little."""
    other = disk / "something-else"
    try:
        with other.open("wb") as file:
            with contextlib.suppress(OSError):
                while True:
                    os.write(file.fileno(), bytes(65536))
            file.truncate(os.fstat(file.fileno()).st_size - LITTLE)
        yield
    finally:
        other.unlink()


def refused(at: Node, resident: str, filed: list[str]) -> str:
    """Files until there is no room: what room the database had made before, or makes anew, is used up first.
    The request_id of what was refused."""
    for _ in range(1000):
        once = str(uuid.uuid4())
        found = at.file(token=resident, request_id=once, description="很多垃圾" * 100)
        if found.status != 200:
            assert (found.status, found.reason) == (503, "DISK_FULL"), found.body
            assert "the disk of the database is full; nothing was done" in found.body["message"]
            assert found.detail("RetryInfo")["retryDelay"] == "10s"
            return once
        filed.append(found.body["name"])
    raise AssertionError("the disk is not full")


def test_refuses_writes_reads_on_and_catches_up_by_itself(mesh: Mesh, disk: pathlib.Path) -> None:
    county, province = mesh.wuning, mesh.province
    resident, official = county.token("CZ"), county.token("KA")
    filed = [county.file(token=resident).body["name"] for _ in range(10)]
    until(mesh.caught_up)
    before = until(lambda: len(told := county.published()) == len(county.logged()) and told)
    with full(disk):
        for at in (county, province):
            once = refused(at, resident, filed)
            read = at.call("GET", f"/habitat/v1/{filed[0]}", token=official)
            assert (read.status, read.served_by, read.body["name"]) == (200, WUNING, filed[0])
        listed = county.call("GET", f"{REPORTS}?pageSize=500", token=official).body["reports"]
        assert {r["name"] for r in listed} == set(filed)
        other = province.file(XIUSHUI, token=mesh.xiushui.token("CZ"))
        assert (other.status, other.served_by) == (200, PROVINCE)
        bad = [f.what for f in doctor.examine(county.data) if f.verdict == "bad"]
        assert "habitat is not ready: the disk of the database is full" in bad
        assert len(filed) > 10
        assert county.published() == before, "what is filed waits while there is so little"
    assert "no space left" not in (county.data / "logs/nats.log").read_text(), "it would need a new start"

    again: dict[str, Any] = {"token": resident, "request_id": once, "description": "很多垃圾" * 100}
    done = until(lambda: (a := county.file(**again)).status == 200 and a)
    assert province.file(**again).body["name"] == done.body["name"]
    filed.append(done.body["name"])
    accepted = county.call("POST", f"/habitat/v1/{filed[0]}:accept", {}, token=official)
    assert (accepted.status, accepted.body["etag"]) == (200, "2")
    assert county.reports().keys() == set(filed)
    until(mesh.caught_up, 60)
    events = county.logged()
    assert [number for _, _, number, _ in events] == list(range(1, len(events) + 1))
    until(lambda: province.logged() == events)
    wanted = Counter(key for *_, key in events)
    for node in (county, province):
        until(lambda node=node: Counter(node.published()) == wanted, 30)  # type: ignore[misc]
    steps = "SELECT name FROM mesh_step"
    audited = "SELECT name FROM mesh_audit WHERE result = 'OK' AND method IN ('FileReport', 'AcceptReport')"
    assert Counter(county.rows(steps)) == Counter(county.rows(audited))
    until(lambda: not [f.what for f in doctor.examine(county.data) if "not ready" in f.what])
