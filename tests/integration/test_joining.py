"""A province and a county that joins it, as real nodes: what a code proves, and what a stranger may do."""

import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from deploy.local import prepare
from tests.integration.test_local_node import GOOD, REPORTS, County, mesh
from tests.waiting import free_ports, until


class Province(County):
    """The province's node."""

    def words(self, *more: str) -> list[str]:
        stated = ("--region", "360000", "--services", "habitat", "--port", str(self.port))
        return ["up", "--data", str(self.data), *stated, *more]

    @property
    def office(self) -> str:
        return f"https://127.0.0.1:{self.port + prepare.OFFICE}"

    def invite(self, *words: str) -> str:
        made = mesh("invite", "--data", str(self.data), *words)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def stranger(self, path: str, body: bytes | None = None) -> int:
        """The status that somebody without a certificate gets at the office."""
        context = ssl._create_unverified_context()
        request = urllib.request.Request(self.office + path, body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=20, context=context) as response:
                return int(response.status)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code


@pytest.fixture(scope="module")
def province(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Province]:
    made = Province(tmp_path_factory.mktemp("mesh") / "360000")
    made.port = free_ports(4)
    started = made.up()
    assert started.returncode == 0, started.stderr
    yield made
    assert mesh("down", "--data", str(made.data)).returncode == 0


@pytest.fixture(scope="module")
def joined(province: Province, tmp_path_factory: pytest.TempPathFactory) -> Iterator[County]:
    made = County(tmp_path_factory.mktemp("mesh") / "360423")
    made.port = free_ports(3)
    code = province.invite("--region", "360423", "--services", "habitat")
    started = made.up("--province", province.office, "--invite", code)
    assert started.returncode == 0, started.stderr
    yield made
    assert mesh("down", "--data", str(made.data)).returncode == 0


class TestJoining:
    def test_makes_the_county_the_owner_of_what_was_promised(
        self, province: Province, joined: County
    ) -> None:
        for node in (province, joined):
            found = until(lambda node=node: node.ask("/mesh/v1/node")[1].get("grants"))  # type: ignore[misc]
            assert [(g["region"], g["domain"], g["node"]) for g in found] == [("360423", "habitat", "360423")]
            nodes = {n["region"] for n in node.ask("/mesh/v1/node")[1]["nodes"]}
            assert nodes == {"360000", "360423"}

    def test_lets_a_report_be_filed_at_either_gateway(self, province: Province, joined: County) -> None:
        token = joined.token("CZ")
        names = []
        for node in (joined, province):
            until(lambda node=node: node.ask(REPORTS, token=token, body=GOOD)[0] == 200)  # type: ignore[misc]
            status, report = node.ask(REPORTS, token=token, body=GOOD)
            assert status == 200, report
            names.append(report["name"])
        for name in names:
            for node in (joined, province):
                until(lambda at=node, of=name: at.ask(f"/habitat/v1/{of}", token=token)[0] == 200)  # type: ignore[misc]

    def test_takes_no_other_code(self, province: Province, joined: County, tmp_path: object) -> None:
        code = province.invite("--region", "360424")
        for wrong, said in (
            ("x" + code, "the code is wrong"),
            (f"{code[:-4]}zzzz", "is not the province that the code is of"),
        ):  # fmt: skip
            other = County(tmp_path / "other")  # type: ignore[operator]
            refused = mesh(
                *("up", "--data", str(other.data), "--region", "360424", "--port", str(free_ports(3))),
                *("--detach", "--province", province.office, "--invite", wrong),
            )
            assert refused.returncode != 0
            assert said in refused.stderr

    def test_leaves_strangers_little_at_the_office(self, province: Province, joined: County) -> None:
        assert province.stranger("/mesh/v1/authority") == 200
        assert province.stranger("/mesh/v1/regions/360000/enrolments", b"{}") == 400
        for path in ("/mesh/v1/node", "/leafnode", "/mesh/v1/regions/360000/grants", REPORTS):
            assert province.stranger(path) == 401, path
        assert province.stranger("/mesh/v1/regions/360000/bundles", b"{}") == 401

    def test_can_be_undone(self, province: Province, joined: County) -> None:
        assert joined.ask("/mesh/v1/node")[0] == 200
        done = mesh("revoke", "--data", str(province.data), "--region", "360423")
        assert done.returncode == 0, done.stderr

        def shut_out() -> bool:
            nodes = {n["region"]: n for n in province.ask("/mesh/v1/node")[1]["nodes"]}
            return bool(nodes["360423"].get("revoked"))

        until(shut_out, seconds=5)
        token = joined.token("CZ")
        assert joined.ask(REPORTS, token=token, body=GOOD)[0] == 200, "it serves its own people"
        until(lambda: province.ask(REPORTS, token=token, body=GOOD)[0] in (401, 503), seconds=5)
