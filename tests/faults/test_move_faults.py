"""A handover while lines and programs fail (I3): it says what keeps it, goes on by itself, and may be undone
until it is granted; afterwards there is one owner, who has everything."""

import hashlib
from collections.abc import Iterator

import pytest

from tests.integration.test_mesh_moves import REPORTS, agree, download, filed, node, upload, writer
from tests.mesh import PROVINCE, WUNING, Mesh, report
from tests.waiting import until

CONTENT = b"%PDF-1.7 " + b"".join(hashlib.sha256(bytes([n // 256, n % 256])).digest() for n in range(40_000))
"""1.3 MB that cannot be compressed: on the way for a while on a slow line, in several parts."""
SLOW = 250_000


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Mesh(tmp_path_factory.mktemp("mesh"), {WUNING: ("habitat",)}) as started:
        token = started.wuning.token("CZ")
        photo = upload(started.wuning, CONTENT, token)
        filed(started.wuning, token, photos=[photo])
        for _ in range(20):
            filed(started.wuning, token)
        until(started.caught_up)
        yield started


@pytest.fixture
def mesh(running: Mesh) -> Iterator[Mesh]:
    """The mesh; afterwards its line is good again."""
    yield running
    running.line.throttle(0)
    running.line.restore()


def begun(mesh: Mesh, to: str) -> str:
    """A handover that is in the middle of copying the file, on a slow line."""
    mesh.line.throttle(SLOW)
    asked = mesh.hand_over(to)
    assert asked.status == 200, asked.body
    name = str(asked.body["name"])
    mesh.reaches(name, "COPYING")
    before = mesh.line.bytes_up + mesh.line.bytes_down
    try:
        until(lambda: mesh.line.bytes_up + mesh.line.bytes_down > before + 400_000)
    except AssertionError as fault:
        raise AssertionError(f"{fault}: {mesh.handover(name)}") from None
    assert mesh.handover(name)["state"] == "STATE_COPYING"
    return name


def complete(mesh: Mesh, owner: str, names: set[str]) -> None:
    """The owner has everything and writes; the other has not the right to."""
    assert writer(mesh) == owner
    there, token = node(mesh, owner), mesh.wuning.token("CZ")
    other = mesh.wuning if owner == PROVINCE else mesh.province
    assert names <= there.reports().keys()
    ((name, sha),) = there.rows("SELECT name, sha256 FROM mesh_attached")
    assert download(there, f"/habitat/v1/{name}/photos/{sha}", mesh.wuning.token("KA")) == (200, CONTENT)
    filed(there, token)
    asked = f"SELECT frozen FROM mesh_ownership WHERE region = '{WUNING}'"
    assert (there.rows(asked), other.rows(asked)) in (([(0,)], [(1,)]), ([(0,)], []))
    assert len(there.rows("SELECT 1 FROM reports WHERE owner != ''")) == len(there.reports())
    until(lambda: mesh.province.reports() == mesh.wuning.reports())
    assert not other.rows("SELECT 1 FROM reports WHERE owner != '' OR alarm_time IS NOT NULL")
    agree(mesh)


class TestLine:
    def test_that_is_cut_before_the_freeze_is_told_of_and_waited_for(self, mesh: Mesh) -> None:
        names = set(mesh.wuning.reports())
        mesh.line.cut()
        name = mesh.hand_over(PROVINCE).body["name"]
        told = until(lambda: (found := mesh.handover(name)).get("trouble") and found)
        assert told["state"] == "STATE_FREEZING"
        assert WUNING in told["trouble"]
        names.add(filed(mesh.wuning, mesh.wuning.token("CZ")))  # it has not heard of it
        mesh.line.restore()
        mesh.reaches(name)
        complete(mesh, PROVINCE, names)
        mesh.move(WUNING)
        complete(mesh, WUNING, names)

    def test_that_is_cut_while_it_is_copied_is_waited_for(self, mesh: Mesh) -> None:
        names = set(mesh.wuning.reports())
        name = begun(mesh, PROVINCE)
        mesh.line.cut()
        mesh.line.throttle(0)
        told = until(lambda: (found := mesh.handover(name)).get("trouble") and found, 30)
        assert told["state"] == "STATE_COPYING"
        refused = mesh.wuning.call("POST", REPORTS, report(), token=mesh.wuning.token("CZ"))
        assert (refused.status, refused.body["code"]) == (503, 14)
        mesh.line.restore()
        mesh.reaches(name, seconds=60)
        complete(mesh, PROVINCE, names)
        mesh.move(WUNING)

    def test_that_is_cut_does_not_keep_it_from_being_undone(self, mesh: Mesh) -> None:
        names = set(mesh.wuning.reports())
        name = begun(mesh, PROVINCE)
        mesh.line.cut()
        mesh.line.throttle(0)
        undone = mesh.ask("POST", f"/mesh/v1/{name}:revert", {})
        assert undone.body["state"] == "STATE_REVERTING", undone.body
        token = mesh.wuning.token("CZ")
        assert mesh.wuning.call("POST", REPORTS, report(), token=token).status == 503
        mesh.line.restore()
        mesh.reaches(name, "REVERTED", seconds=60)
        complete(mesh, WUNING, names)


class TestPrograms:
    @pytest.mark.parametrize(("to", "died"), [(PROVINCE, WUNING), (WUNING, WUNING), (PROVINCE, PROVINCE)])
    def test_may_be_killed_in_the_middle(self, mesh: Mesh, to: str, died: str) -> None:
        """The giver, the receiver, and the province, which is the receiver and carries it on."""
        if writer(mesh) == to:  # when run by itself
            mesh.move(WUNING if to == PROVINCE else PROVINCE)
        names = set(mesh.wuning.reports())
        name, there = begun(mesh, to), node(mesh, died)
        before = there.pid("services")
        there.kill("services")
        until(lambda: there.pid("services") not in (0, before))
        mesh.line.throttle(0)
        mesh.reaches(name, seconds=60)
        complete(mesh, to, names)
