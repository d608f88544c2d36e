"""Several processes on one address and one PostgreSQL (`serve --processes`): each may die, events come once;
on SQLite it is refused with the reason."""

import concurrent.futures
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import psutil
import pytest

from mesh import resources
from tests.broker import Broker
from tests.county import REGION, County, mint
from tests.loop import PARENT, rows
from tests.waiting import free_port, until
from village.habitat.v1 import report_pb2 as pb

COUNT = 3
COMMAND = [sys.executable, "-m", "cli.main", "serve", "habitat", "--processes", str(COUNT)]


def variables(county: County, listen: str, nats: str) -> dict[str, str]:
    from deploy.local import directory

    return {
        **os.environ, **directory.files(county.folder), "VILLAGEMESH_REGION": REGION,
        "VILLAGEMESH_LISTEN": listen, "VILLAGEMESH_NATS_URL": nats,
        "VILLAGEMESH_DATABASE_URL": county.settings.database_url,
    }  # fmt: skip


@contextlib.contextmanager
def served(county: County, nats: str) -> Iterator[tuple[psutil.Process, str]]:
    address = f"127.0.0.1:{free_port()}"
    with (county.folder / "serve.log").open("ab") as out:
        process = subprocess.Popen(COMMAND, env=variables(county, address, nats), stdout=out, stderr=out)
    try:
        yield psutil.Process(process.pid), address
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0


def file(county: County, address: str) -> str:
    """Files a report on a connection of its own, so that any process may take it."""
    token = mint(county.private, resources.utcnow(), sub="resident-1", roles=["CZ"], organisation=None)
    report: Any = {"category": 1, "description": "x", "division": "360423100201",
                   "location": {"latitude": 29.26, "longitude": 115.1}}  # fmt: skip
    request = pb.FileReportRequest(parent=PARENT, report=report)
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        ask = channel.unary_unary("/village.habitat.v1.ReportService/FileReport")
        raw = ask(request.SerializeToString(), metadata=[("authorization", f"Bearer {token}")],
                  timeout=15, wait_for_ready=True)  # fmt: skip
    return str(pb.Report.FromString(raw).name)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_serve_together_and_each_may_die(county: County, tmp_path: pathlib.Path) -> None:
    (tmp_path / "nats").mkdir()
    broker = Broker(tmp_path / "nats")
    names: list[str] = []
    try:
        with served(county, broker.url) as (parent, address):
            until(lambda: len(parent.children()) == COUNT, seconds=20)
            names.append(file(county, address))
            for place in (0, 1):
                before = {child.pid for child in parent.children()}
                sorted(parent.children(), key=lambda child: child.pid)[place].kill()
                until(
                    lambda before=before: len({c.pid for c in parent.children()} - before) == 1  # type: ignore[misc]
                    and len(parent.children()) == COUNT,
                    seconds=20,
                )  # fmt: skip
                with concurrent.futures.ThreadPoolExecutor(4) as pool:
                    names += pool.map(lambda _: file(county, address), range(12))
            until(
                lambda: {h["ce-subject"] for _, h, _ in broker.stored()} >= set(names), seconds=60
            )  # fmt: skip
        filed = [h["ce-subject"] for _, h, _ in broker.stored() if h["ce-type"].endswith("ReportFiled")]
        assert sorted(filed) == sorted(names)
        assert len({row[0] for row in rows(county, "SELECT name FROM reports")}) == len(names)
    finally:
        broker.kill()


def test_are_refused_on_sqlite_with_the_reason(tmp_path: pathlib.Path) -> None:
    county = County(tmp_path, f"sqlite:///{tmp_path}/{{domain}}.db")
    county.close()
    said = subprocess.run(  # noqa: PLW1510 - it is to fail
        COMMAND, env=variables(county, "127.0.0.1:1", "nats://127.0.0.1:1"), capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert said.returncode != 0
    assert "SQLite has one writer" in said.stderr
