"""What other teams install: the wheel in an environment of its own, its types, and the programs in
docs/clients against a real service."""

import concurrent.futures
import datetime
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator

import grpc
import pytest

from client import wheel
from mesh import transport
from tests import county as counties
from village.habitat.v1 import report_pb2

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "docs/clients"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return wheel.build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(built: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The Python of a fresh environment with the wheel. What it needs is found where it is installed already,
    and `pip` says whether that will do."""
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "here.pth").write_text("\n".join(here))
    found = folder / "bin/python"
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        found,
        "--disable-pip-version-check",
        "install",
        "--quiet",
    )
    subprocess.run([*pip, "--no-index", built], env=apart(), check=True, timeout=120)
    return found


def apart() -> dict[str, str]:
    """The environment without the way to this checkout."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}


class Ticking(counties.County):
    """Its clock goes on with every look, so that what is filed later is younger."""

    _now = counties.MONDAY

    @property
    def now(self) -> datetime.datetime:
        self._now += datetime.timedelta(milliseconds=1)
        return self._now

    @now.setter
    def now(self, moment: datetime.datetime) -> None:
        self._now = moment


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    """Wuning's habitat behind grpcio: the address, a resident's token and the county's."""
    folder = tmp_path_factory.mktemp("county")
    county = Ticking(folder, f"sqlite:///{folder}/{{domain}}.db")
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([transport.GrpcHandler(county.chain, transport.Pool(4, "call"))])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", county.token("resident"), county.token("county")
    server.stop(0).wait()
    county.close()


def run(command: list[str | pathlib.Path], folder: pathlib.Path, **environment: str) -> list[str]:
    """The lines that a program printed."""
    done = subprocess.run(
        command, cwd=folder, env={**apart(), **environment}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


class TestWheel:
    def test_has_the_same_bytes_when_it_is_built_again(
        self, built: pathlib.Path, tmp_path: pathlib.Path
    ) -> None:
        again = wheel.build(tmp_path)
        assert again.name == built.name == f"village_mesh_protos-{self.version()}-py3-none-any.whl"
        assert again.read_bytes() == built.read_bytes()

    def version(self) -> str:
        found = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        assert found
        return found[1]

    def test_has_the_protos_and_types_of_every_package(self, built: pathlib.Path) -> None:
        names = set(zipfile.ZipFile(built).namelist())
        protos = {p.relative_to(ROOT / "protos").as_posix() for p in (ROOT / "protos").rglob("*.proto")}
        assert protos
        assert protos <= names
        for proto in protos:
            stem, folder = proto.removesuffix(".proto"), proto.rpartition("/")[0]
            ends = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
            assert {*(stem + end for end in ends), f"{folder}/py.typed"} <= names

    def test_asks_for_what_the_generated_code_asks_for(self, built: pathlib.Path) -> None:
        asked = next(iter(importlib.metadata.distributions(path=[str(built)]))).requires or []
        for name, module, pattern in (
            ("grpcio", "report_pb2_grpc.py", r"GRPC_GENERATED_VERSION = '(.*)'"),
            ("protobuf", "report_pb2.py", r"Protobuf Python Version: (.*)"),
        ):
            found = re.search(pattern, (ROOT / "gen/village/habitat/v1" / module).read_text())
            assert found
            assert f"{name}>={found[1]}" in asked


class TestPrograms:
    """docs/clients."""

    def test_pass_the_strictest_check_of_types(self, python: pathlib.Path, tmp_path: pathlib.Path) -> None:
        for name in ("reports.py", "ledger.py"):
            shutil.copy(CLIENTS / name, tmp_path)
        wrong = "import village_mesh\nfrom village.habitat.v1 import report_pb2, report_pb2_grpc\n"
        wrong += "stub = village_mesh.Client('http://a').stub(report_pb2_grpc.ReportServiceStub)\n"
        wrong += "stub.GetReport(report_pb2.ListReportsRequest(parent=1))\n"
        (tmp_path / "wrong.py").write_text(wrong)
        (packages,) = python.parents[1].glob("lib/python*/site-packages")
        ours = sorted((packages / "village_mesh").glob("*.py"))
        how = ("--strict", "--python-executable", python, "--cache-dir", tmp_path / "cache")
        done = subprocess.run(
            [sys.executable, "-m", "mypy", *how, "reports.py", "ledger.py", "wrong.py", *ours],
            cwd=tmp_path, env=apart(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        faults = done.stdout.splitlines()[:-1]
        assert [line.partition(": ")[0] for line in faults] == ["wrong.py:4"] * 2, done.stdout
        assert any('"GetReportRequest"' in line for line in faults)

    def test_in_python_says_what_happened(
        self, python: pathlib.Path, service: tuple[str, str, str], tmp_path: pathlib.Path
    ) -> None:
        address, resident, county = service
        command = [python, CLIENTS / "reports.py", f"http://{address}", resident, county]
        said = [run(command, tmp_path) for _ in range(3)][-1]
        name = said[0].removeprefix("filed ")
        assert re.fullmatch(r"regions/360423/reports/[0-9a-f-]{36}", name)
        assert said[1] == "refused FORBIDDEN 无权执行此操作"
        assert f"listed {name} REPORTED" in said or f"listed {name} STATE_REPORTED" in said
        assert said[-1].startswith("accepted 2")

    def test_in_node_js_says_the_same(
        self, built: pathlib.Path, service: tuple[str, str, str], tmp_path: pathlib.Path
    ) -> None:
        for name in ("reports.mjs", "package.json"):
            shutil.copy(CLIENTS / name, tmp_path)
        zipfile.ZipFile(built).extract("village_mesh/village.binpb", tmp_path)
        install = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(install, cwd=tmp_path, check=True, timeout=120)
        said = run(["node", "reports.mjs", *service, "village_mesh/village.binpb"], tmp_path)
        name = said[0].removeprefix("filed ")
        assert said[1] == "refused FORBIDDEN"
        assert f"listed {name} STATE_REPORTED" in said

    def test_in_a_shell_lists_by_grpc(
        self, built: pathlib.Path, service: tuple[str, str, str], tmp_path: pathlib.Path
    ) -> None:
        zipfile.ZipFile(built).extract("village_mesh/village.binpb", tmp_path)
        address, resident, county = service
        with grpc.insecure_channel(address) as channel:
            request = report_pb2.FileReportRequest(parent="regions/360423")
            request.report.MergeFrom(
                report_pb2.Report(
                    category="CATEGORY_WASTE", description="河边有垃圾", division=counties.VILLAGE,
                    location={"latitude": 29.26, "longitude": 115.09},
                )
            )  # fmt: skip
            method = "/village.habitat.v1.ReportService/FileReport"
            raw = channel.unary_unary(method)(
                request.SerializeToString(), metadata=[("authorization", f"Bearer {resident}")]
            )
        name = report_pb2.Report.FromString(raw).name
        command = ["bash", CLIENTS / "reports.sh", f"http://{address}"]
        protoc = f"{sys.executable} -m grpc_tools.protoc"
        said = run([*command, county, "village_mesh/village.binpb"], tmp_path, PROTOC=protoc)
        assert f'  name: "{name}"' in said
        assert "  state: STATE_REPORTED" in said
        refused = subprocess.run(
            [*command, "no-token", "village_mesh/village.binpb"], cwd=tmp_path, text=True, check=False,
            env={**apart(), "PROTOC": protoc}, capture_output=True,
        )  # fmt: skip
        assert (refused.returncode, refused.stdout) == (16, "")
        assert "grpc-status: 16" in refused.stderr
