"""Nodes of a mesh that are put back from yesterday's copy (I2): their logs go on under the next incarnation
or catch up, copies follow their owner, and no event is there twice."""

import pathlib
import shutil
from collections import Counter
from collections.abc import Iterator

import pyrage
import pytest

from tests.integration.test_local_node import mesh as villagemesh
from tests.integration.test_mesh_moves import agree, filed
from tests.mesh import WUNING, XIUSHUI, Mesh
from tests.waiting import until


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Mesh(tmp_path_factory.mktemp("mesh"), {WUNING: ("habitat",)}) as started:
        yield started


def some(mesh: Mesh, count: int = 5) -> set[str]:
    return {filed(mesh.wuning, mesh.wuning.token("CZ")) for _ in range(count)}


def test_a_county_from_yesterday_goes_on_and_its_copy_follows(mesh: Mesh, tmp_path: pathlib.Path) -> None:
    county, to = mesh.wuning, tmp_path / "node.tar.gz"
    kept = some(mesh)
    until(mesh.caught_up)
    said = villagemesh("backup", "--data", str(county.data), "--to", str(to))
    assert said.returncode == 0, said.stderr
    gone = some(mesh)
    accepted = county.call("POST", f"/habitat/v1/{min(kept)}:accept", {}, token=county.token("KA"))
    assert accepted.status == 200
    until(mesh.caught_up)
    before = mesh.province.logged()
    county.stop()
    away = county.data.rename(tmp_path / "under-water")
    said = villagemesh("restore", "--data", str(county.data), "--from", str(to))
    assert said.returncode == 0, said.stderr
    shutil.copytree(away / "secrets", county.data / "secrets", dirs_exist_ok=True)
    county.start(province=mesh.address(county), code="-")
    until(mesh.well, 30)
    fresh = some(mesh)
    assert kept | fresh <= county.reports().keys()
    assert not gone & county.reports().keys()
    until(mesh.caught_up, 30)
    assert not gone & mesh.province.reports().keys()
    assert mesh.province.reports()[min(kept)][0] == 1
    until(lambda: len(mesh.province.logged()) >= len(before) + 5)
    logged = mesh.province.logged()
    assert logged[: len(before)] == before
    assert [(i, n) for _, i, n, _ in logged[len(before) :]] == [(2, n) for n in range(1, 6)]
    agree(mesh)
    # what was lost may come again, by another way
    assert some(mesh) <= county.reports().keys()
    until(mesh.caught_up)


def test_a_province_from_yesterday_catches_up(mesh: Mesh, tmp_path: pathlib.Path) -> None:
    """Its machine is lost, with all that lay on it: the copy holds its authority over the mesh too."""
    province, to = mesh.province, tmp_path / "province.tar.gz"
    identity, who = tmp_path / "identity.txt", pyrage.x25519.Identity.generate()
    identity.write_text(str(who))
    some(mesh)
    until(mesh.caught_up)
    copied = ("--data", str(province.data), "--to", str(to), "--keys-for", str(who.to_public()))
    said = villagemesh("backup", *copied)
    assert said.returncode == 0, said.stderr
    names = some(mesh, 20)
    until(mesh.caught_up)
    county, logged = mesh.wuning.reports(), mesh.province.logged()
    province.stop()
    shutil.rmtree(province.data)
    restored = ("--data", str(province.data), "--from", str(to), "--identity", str(identity))
    said = villagemesh("restore", *restored)
    assert said.returncode == 0, said.stderr
    assert "put back" not in said.stdout
    assert not names & province.reports().keys()
    province.start()
    until(mesh.well, 30)
    until(mesh.caught_up, 30)
    assert province.reports() == county
    assert Counter(province.logged()) == Counter(logged)
    some(mesh)
    until(mesh.caught_up)
    agree(mesh)
    assert mesh.join(XIUSHUI, ()).region == XIUSHUI, "and it takes in who joins"
