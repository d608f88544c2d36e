"""A province and two counties in containers of one image. Each county is on a network of its people and on a
line to the province, which is cut by taking the county off it: nothing answers, and nothing is reset."""

from collections.abc import Iterator

import pytest

from mesh import resources
from tests import containers
from tests.containers import GATEWAY, OFFICE, Containers
from tests.mesh import PROVINCE, WUNING, XIUSHUI, Answer
from tests.waiting import until

REPORTS = f"/habitat/v1/regions/{WUNING}/reports"


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    with containers.engine() as client, containers.image(client) as name:
        yield name


@pytest.fixture(scope="module")
def running(image: str) -> Iterator[Containers]:
    with Containers(image) as started:
        yield started


@pytest.fixture
def mesh(running: Containers) -> Iterator[Containers]:
    """The mesh, whose line a test may leave cut."""
    yield running
    if not running.wuning.address(running.lines[WUNING]):
        running.restore(running.wuning, running.lines[WUNING])


def filed(mesh: Containers) -> str:
    """The name of a report that a resident filed in Wuning."""
    found = mesh.wuning.file(token=mesh.resident)
    assert (found.status, found.served_by) == (200, WUNING), found.body
    return str(found.body["name"])


def listed(mesh: Containers, *, copy: bool) -> dict[str, str]:
    """Name and version of each report of Wuning, as the county has it, or the province's copy."""
    node, served = (mesh.province, PROVINCE) if copy else (mesh.wuning, WUNING)
    told = {"x-village-read": "replica" if copy else "owner"}
    found = node.call("GET", f"{REPORTS}?pageSize=500", token=mesh.official, headers=told)
    assert (found.status, found.served_by) == (200, served), found.body
    return {report["name"]: report["etag"] for report in found.body["reports"]}


class TestImage:
    def test_runs_as_nobody_in_particular_and_its_keys_are_its_owner_s_alone(self, mesh: Containers) -> None:
        for node in (mesh.province, mesh.wuning, mesh.xiushui):
            assert node.run("id", "-u").strip() == "10001"
            modes = node.run("find", "/data/secrets", "-printf", "%m %U\n").split("\n")[:-1]
            assert set(modes) == {"700 10001", "600 10001"}

    def test_holds_no_directory_of_a_node_and_nothing_that_the_user_may_change(
        self, mesh: Containers
    ) -> None:
        assert (
            mesh.wuning.run("find", "/opt/village-mesh", "-name", "secrets", "-o", "-writable", "-type", "f")
            == ""
        )

    def test_says_that_it_is_well(self, mesh: Containers) -> None:
        check = mesh.wuning.attributes["Config"]["Healthcheck"]["Test"]
        assert check[0] == "CMD"
        assert "running" in mesh.wuning.run(*check[1:])


class TestContainers:
    def test_what_a_county_files_is_seen_at_the_province(self, mesh: Containers) -> None:
        name = filed(mesh)
        until(lambda: name in listed(mesh, copy=True))
        found = mesh.province.call("GET", f"/habitat/v1/{name}", token=mesh.official)
        assert (found.status, found.served_by) == (200, WUNING), found.body

    def test_a_county_that_runs_nothing_passes_calls_to_the_owner(self, mesh: Containers) -> None:
        made = mesh.xiushui.file(WUNING, token=mesh.resident)
        assert (made.status, made.served_by) == (200, WUNING), made.body
        path = f"/habitat/v1/{made.body['name']}:accept"
        accepted = mesh.xiushui.call("POST", path, {}, token=mesh.official)
        assert (accepted.status, accepted.served_by) == (200, WUNING), accepted.body
        assert listed(mesh, copy=False)[made.body["name"]] == "2"
        own = mesh.xiushui.file(XIUSHUI, token=mesh.xiushui.token("CZ"))
        assert (own.status, own.served_by) == (200, PROVINCE), own.body

    def test_a_county_only_dials_out(self, mesh: Containers) -> None:
        """Every connection between a county and the province ends at the province's one port for nodes."""
        for region, county in ((WUNING, mesh.wuning), (XIUSHUI, mesh.xiushui)):
            assert not county.attributes["HostConfig"]["PortBindings"]
            line = mesh.lines[region]
            here, there = county.address(line), mesh.province.address(line)
            assert {port for _, ip, port in county.connections() if ip == there} == {OFFICE}
            assert {port for port, ip, _ in mesh.province.connections() if ip == here} == {OFFICE}

    def test_no_network_leads_to_another(self, mesh: Containers) -> None:
        probe = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2)"
        python = "/opt/village-mesh/.venv/bin/python"
        there = mesh.province.address(mesh.lines[XIUSHUI])
        for address in (mesh.xiushui.host, mesh.province.host, there):
            words = [python, "-c", probe, address, str(OFFICE if address == there else GATEWAY)]
            assert mesh.wuning.box.exec(words).exit_code == 1
        mesh.wuning.run(python, "-c", probe, "province", str(OFFICE))

    def test_a_county_that_is_cut_off_goes_on_and_all_catches_up(self, mesh: Containers) -> None:
        known = filed(mesh)
        until(lambda: known in listed(mesh, copy=True))
        line = mesh.lines[WUNING]
        mesh.cut(mesh.wuning, line)
        cut = resources.utcnow()
        names = [filed(mesh) for _ in range(5)]
        path = f"/habitat/v1/{known}:accept"
        accepted = mesh.wuning.call("POST", path, {}, token=mesh.official)
        assert (accepted.status, accepted.served_by) == (200, WUNING), accepted.body

        for at in (mesh.province, mesh.xiushui):
            for asked in (f"/habitat/v1/{known}", REPORTS):
                found: Answer = at.call("GET", asked, token=mesh.official, headers={"grpc-timeout": "6S"})
                assert (found.status, found.served_by) == (200, PROVINCE), found.body
                assert found.as_of is not None
                assert found.as_of <= cut
            refused = at.call("POST", path, {}, token=mesh.official, headers={"grpc-timeout": "3S"})
            assert refused.status in {503, 504}, refused.body
        assert not set(names) & listed(mesh, copy=True).keys()

        mesh.restore(mesh.wuning, line)
        until(lambda: set(names) <= listed(mesh, copy=True).keys(), 60)
        until(lambda: listed(mesh, copy=True) == listed(mesh, copy=False), 20)
        told = ("--region", WUNING, "--domain", "habitat", "--check")
        assert mesh.province.villagemesh("reconcile", *told) == "the same"

    def test_a_county_that_was_stopped_starts_again_with_what_it_had(self, mesh: Containers) -> None:
        name, box = filed(mesh), mesh.wuning.box.get_wrapped_container()
        box.stop(timeout=60)
        assert mesh.wuning.attributes["State"]["ExitCode"] == 0, mesh.wuning.said
        box.start()
        until(mesh.wuning.is_well, 60)
        assert name in listed(mesh, copy=False)
        later = filed(mesh)
        until(lambda: {name, later} <= listed(mesh, copy=True).keys(), 30)
