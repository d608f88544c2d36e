"""The floor: habitat's get, list and file as a careful hand writes them for these three calls alone. grpcio
with as many threads, raw bytes in and out, the driver with prepared statements, the answer built field by
field. No tokens, no permission, no validation, no encryption, no masks, no history, no locks.

Runs as a process: `python -m bench.floor DATABASE_URL ADDRESS`."""

import base64
import concurrent.futures
import datetime
import json
import os
import signal
import sqlite3
import sys
import threading
import uuid
from collections.abc import Callable
from typing import Any, ClassVar

import grpc
import psycopg
from google.protobuf import timestamp_pb2

from village.habitat.v1 import events_pb2, report_pb2
from village.type.v1 import level_pb2

THREADS = 6
SERVICE = "/village.habitat.v1.ReportService"
COLUMNS = (
    "name, version, category, description, division, location, contact, observe_time, photos, state, "
    "file_time, accept_time, rectify_time, close_time, due_time, due_provisional, overdue, late_time, "
    "escalation_level, handling_level, handling_unit, handling_unit_title, handler, evidence, rework_count, "
    "rework_time, return_count, dispute_count, duplicate_of, feedback, feedback_time, score, policy, "
    "assign_time, reporter, handler_deputy, released_photos, extension_request_time, extension_requester, "
    "extension_requester_deputy, extension_decide_time, erase_time, urge_count, urge_time"
)
GET = f"SELECT {COLUMNS} FROM reports WHERE name = ?"
LIST = f"SELECT {COLUMNS} FROM reports WHERE region = ? AND state = ? ORDER BY name LIMIT ?"
REPORT = (
    "INSERT INTO reports (name, region, township, version, owner, alarm_time, digest, category, "
    "description, division, location, contact, photos, state, file_time, due_time, due_provisional, "
    "overdue, escalation_level, "
    "handling_level, handling_unit, handling_unit_title, handler, rework_count, return_count, dispute_count, "
    "duplicate_of, feedback, score, policy, reporter, handler_deputy, extension_requester, "
    "extension_requester_deputy, urge_count) VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'REPORTED', ?, "
    "?, ?, ?, 'UNSPECIFIED', 'UNSPECIFIED', '', '', '', 0, 0, 0, '', '', 0, ?, ?, '', '', '', 0)"
)
OUTBOX = (
    "INSERT INTO mesh_outbox (region, epoch, incarnation, event_id, type, subject, name, time, trace, "
    "audit_digest, payload) VALUES (?, 1, 1, ?, 'village.habitat.v1.ReportFiled', ?, ?, ?, ?, ?, ?)"
)
AUDIT = (
    "INSERT INTO mesh_audit (time, region, actor, deputy, role, organisation, method, name, before_digest, "
    "after_digest, result, purpose, count, request_id, trace, digest) VALUES (?, ?, ?, '', 'CZ', '', "
    "'FileReport', ?, '', ?, 'OK', '', 1, '', ?, ?)"
)
ATTACHED = "INSERT INTO mesh_attached (sha256, name) VALUES (?, ?)"
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
DIGEST, TRACE, OWNER = "a" * 64, f"00-{'b' * 32}-{'c' * 16}-00", f"sealed:{'d' * 24}"

_State, _Category = report_pb2.Report.State, report_pb2.Report.Category
STATES = {n.removeprefix("STATE_"): v for n, v in _State.items()}
CATEGORIES = {n.removeprefix("CATEGORY_"): v for n, v in _Category.items()}
CATEGORY_NAMES = {v: n for n, v in CATEGORIES.items()}
LEVELS = {n.removeprefix("LEVEL_"): v for n, v in level_pb2.Level.items()}


def stamp(value: Any) -> timestamp_pb2.Timestamp:
    span = (datetime.datetime.fromisoformat(value) if isinstance(value, str) else value) - EPOCH
    return timestamp_pb2.Timestamp(seconds=span.days * 86400 + span.seconds, nanos=span.microseconds * 1000)


def report(row: Any) -> report_pb2.Report:
    """A row of COLUMNS as a report."""
    (name, version, category, description, division, location, contact, observed, photos, state, filed,
     accepted, rectified, closed, due, provisional, overdue, late, escalation, handling, unit, title, handler,
     evidence, reworks, reworked, returns, disputes, duplicate, feedback, fed_back, score, policy,
     assigned, reporter, deputy, released, asked, requester, requester_deputy, decided,
     erased, urges, urged) = row  # fmt: skip
    return report_pb2.Report(
        name=name, etag=str(version), category=CATEGORIES[category], description=description,
        division=division, state=STATES[state], due_provisional=bool(provisional), overdue=bool(overdue),
        escalation_level=LEVELS[escalation], handling_level=LEVELS[handling], handling_unit=unit,
        handling_unit_title=title, handler=handler, rework_count=reworks, return_count=returns,
        dispute_count=disputes, duplicate_of=duplicate, feedback=feedback, score=score, policy=policy,
        location=location and parsed(location), contact=contact and parsed(contact),
        photos=photos and parsed(photos), evidence=evidence and parsed(evidence),
        observe_time=observed and stamp(observed), file_time=stamp(filed),
        accept_time=accepted and stamp(accepted), rectify_time=rectified and stamp(rectified),
        close_time=closed and stamp(closed), due_time=due and stamp(due), late_time=late and stamp(late),
        rework_time=reworked and stamp(reworked), feedback_time=fed_back and stamp(fed_back),
        assign_time=assigned and stamp(assigned), reporter=reporter, handler_deputy=deputy,
        released_photos=released and parsed(released), extension_request_time=asked and stamp(asked),
        extension_requester=requester, extension_requester_deputy=requester_deputy,
        extension_decide_time=decided and stamp(decided), erase_time=erased and stamp(erased),
        urge_count=urges, urge_time=urged and stamp(urged),
    )  # fmt: skip


def parsed(value: Any) -> Any:
    """JSON as sqlite3 gives it, text, or as psycopg does, parsed already."""
    return json.loads(value) if isinstance(value, str) else value


class Sqlite:
    """sqlite3: a reading connection per thread, one writing connection behind a lock."""

    def __init__(self, url: str) -> None:
        self._path, self._local, self._lock = (
            url.removeprefix("sqlite:///"),
            threading.local(),
            threading.Lock(),
        )
        self._writer = self._connect()

    def _connect(self) -> sqlite3.Connection:
        made = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        made.execute("PRAGMA journal_mode=WAL")
        made.execute("PRAGMA synchronous=FULL")
        made.execute("PRAGMA busy_timeout=5000")
        made.execute("PRAGMA foreign_keys=ON")
        return made

    def fetch(self, sql: str, values: tuple[Any, ...]) -> list[Any]:
        try:
            own = self._local.connection
        except AttributeError:
            own = self._local.connection = self._connect()
        return own.execute(sql, values).fetchall()

    def write(self, *rows: tuple[Any, ...]) -> None:
        with self._lock:
            own = self._writer
            own.execute("BEGIN IMMEDIATE")
            for sql, row in zip((REPORT, OUTBOX, AUDIT, ATTACHED), rows, strict=True):
                own.execute(sql, row)
            own.execute("COMMIT")

    @staticmethod
    def instant(when: datetime.datetime) -> Any:
        return when.isoformat(timespec="microseconds").replace("+00:00", "Z")


class Postgresql:
    """psycopg in autocommit, a connection per thread, statements prepared."""

    SQL: ClassVar = {sql: sql.replace("?", "%s") for sql in (GET, LIST)}
    FILE = f"WITH a AS ({REPORT}), b AS ({OUTBOX}), c AS ({AUDIT}) {ATTACHED}".replace("?", "%s")

    def __init__(self, url: str) -> None:
        self._url, self._local = url.replace("postgresql+psycopg", "postgresql"), threading.local()

    def _run(self, sql: str, values: tuple[Any, ...]) -> psycopg.Cursor[Any]:
        try:
            own = self._local.cursor
        except AttributeError:
            options = "-c timezone=UTC"
            own = self._local.cursor = psycopg.connect(self._url, autocommit=True, options=options).cursor()
        return own.execute(sql, values, prepare=True)

    def fetch(self, sql: str, values: tuple[Any, ...]) -> list[Any]:
        return self._run(self.SQL[sql], values).fetchall()

    def write(self, *rows: tuple[Any, ...]) -> None:
        self._run(self.FILE, sum(rows, ()))

    @staticmethod
    def instant(when: datetime.datetime) -> Any:
        return when


class Habitat:
    """The three handlers."""

    def __init__(self, database: Sqlite | Postgresql) -> None:
        self._database = database

    def get(self, raw: bytes, _context: object) -> bytes:
        request = report_pb2.GetReportRequest.FromString(raw)
        (row,) = self._database.fetch(GET, (request.name,))
        return report(row).SerializeToString()

    def list(self, raw: bytes, _context: object) -> bytes:
        request = report_pb2.ListReportsRequest.FromString(raw)
        region, state, size = request.parent[8:], request.filter.removeprefix("state = "), request.page_size
        rows = self._database.fetch(LIST, (region, state, size + 1))
        answer = report_pb2.ListReportsResponse(reports=map(report, rows[:size]))
        if len(rows) > size:
            answer.next_page_token = base64.urlsafe_b64encode(rows[size - 1][0].encode()).decode()
        return answer.SerializeToString()

    def file(self, raw: bytes, _context: object) -> bytes:
        request = report_pb2.FileReportRequest.FromString(raw)
        filed, region = request.report, request.parent[8:]
        now = datetime.datetime.now(datetime.UTC)
        due = now + datetime.timedelta(days=1)
        filed.name = f"{request.parent}/reports/{uuid.uuid4()}"
        filed.state, filed.etag, filed.policy = (
            STATES["REPORTED"],
            "1",
            f"{request.parent}/reportPolicies/default",
        )
        filed.file_time.CopyFrom(stamp(now))
        filed.due_time.CopyFrom(stamp(due))
        place, contact = filed.location, filed.contact
        event = events_pb2.ReportFiled(report=filed)
        at, until = self._database.instant(now), self._database.instant(due)
        photos = [
            {"sha256": p.sha256, "media_type": p.media_type, "size_bytes": p.size_bytes} for p in filed.photos
        ]
        self._database.write(
            (
                *(
                    filed.name,
                    region,
                    filed.division[:9],
                    OWNER,
                    until,
                    DIGEST,
                    CATEGORY_NAMES[filed.category],
                    filed.description,
                ),
                *(filed.division, json.dumps({"latitude": place.latitude, "longitude": place.longitude})),
                json.dumps({"person_name": contact.person_name, "phone": contact.phone}, ensure_ascii=False),
                *(json.dumps(photos), at, until, False, False, filed.policy, OWNER),
            ),
            (
                *(region, str(uuid.uuid4()), "village.36.04.23.habitat.report.filed", filed.name, at, TRACE),
                *(DIGEST, event.SerializeToString()),
            ),
            (at, region, OWNER, filed.name, DIGEST, TRACE, DIGEST),
            (filed.photos[0].sha256, filed.name),
        )
        return filed.SerializeToString()


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, habitat: Habitat) -> None:
        methods: dict[str, Callable[[bytes, object], bytes]] = {
            "GetReport": habitat.get, "ListReports": habitat.list, "FileReport": habitat.file
        }  # fmt: skip
        self._handlers = {
            f"{SERVICE}/{name}": grpc.unary_unary_rpc_method_handler(run) for name, run in methods.items()
        }

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)


def serve(url: str, address: str) -> None:
    """Serves until SIGTERM."""
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    habitat = Habitat(Sqlite(url) if url.startswith("sqlite") else Postgresql(url))
    pool = concurrent.futures.ThreadPoolExecutor(THREADS)
    server = grpc.server(
        pool, handlers=[_Handlers(habitat)], maximum_concurrent_rpcs=THREADS * 5,
        options=[("grpc.so_reuseport", 0)],
    )  # fmt: skip
    if not server.add_insecure_port(address):
        raise SystemExit(f"cannot listen on {address}")
    server.start()
    asked.wait()
    server.stop(grace=1).wait()
    os._exit(0)  # connections of the threads need no farewell


if __name__ == "__main__":
    serve(*sys.argv[1:])
