"""A mesh on this machine for tests: a province's node and counties', started as `villagemesh up --detach`
starts them, each county behind a line of its own that the test can cut, hang and slow down."""

import asyncio
import contextlib
import dataclasses
import datetime
import http.client
import json
import os
import pathlib
import signal
import sqlite3
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc
import psycopg
import sqlalchemy as sa

from deploy.local import issuer, prepare
from deploy.local import node as local
from mesh import bus, events
from tests.clock import Clock
from tests.line import Line
from tests.waiting import free_ports, until

PROVINCE, WUNING, XIUSHUI = "360000", "360423", "360424"


def report(region: str = WUNING, description: str = "河边有垃圾") -> dict[str, Any]:
    """A report as somebody files it."""
    here = {"latitude": 29.26, "longitude": 115.09}
    return {
        "category": "CATEGORY_WASTE", "description": description, "division": f"{region}100201",
        "location": here,
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a gateway answered: of gRPC the code's name is the status."""

    status: int | str
    headers: Mapping[str, str]
    body: Any

    @property
    def served_by(self) -> str:
        return self.headers.get("x-village-served-by", "")

    @property
    def as_of(self) -> datetime.datetime | None:
        text = self.headers.get("x-village-as-of")
        return datetime.datetime.fromisoformat(text) if text else None

    @property
    def reason(self) -> str:
        """What a refusal gives as its reason."""
        for detail in self.body.get("details", ()):
            if detail["@type"].endswith("ErrorInfo"):
                return str(detail["reason"])
        return ""

    def detail(self, kind: str) -> dict[str, Any]:
        """The detail of a refusal of that kind; empty without one."""
        return next((d for d in self.body.get("details", ()) if d["@type"].endswith(f".{kind}")), {})


def signed(data: pathlib.Path, role: str, region: str, subject: str = "") -> str:
    """A token by the development issuer of the node in a directory."""
    return issuer.sign(
        data, subject=subject or f"{role}-1", roles=[role], region=region, organisation="",
        lasting=datetime.timedelta(hours=1),
    )  # fmt: skip


def databases(server: str | sa.URL) -> str:
    """Empty databases of a node's services on a PostgreSQL server; their URL, with {domain} in it."""
    uri, mark = sa.make_url(server).set(drivername="postgresql+psycopg"), uuid.uuid4().hex[:12]
    admin = sa.create_engine(uri, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        for domain in ("habitat", "mesh"):
            connection.execute(sa.text(f"CREATE DATABASE {domain}_{mark}"))
    url = uri.set(database=f"DOMAIN_{mark}").render_as_string(hide_password=False)
    return url.replace("DOMAIN", "{domain}")


class Node:
    """A node and what tests ask of it."""

    host = "127.0.0.1"

    def __init__(self, data: pathlib.Path, region: str, services: Sequence[str], port: int) -> None:
        self.data, self.region, self.port = data, region, port
        self.plan = prepare.Plan(region=region, services=tuple(services), port=port)
        self.line: Line | None = None
        self.clock: Clock | None = None
        """The clock that its programs go by from the next start on; None for the machine's."""
        self._tokens: dict[tuple[object, ...], str] = {}

    def start(self, *, province: str = "", code: str = "") -> None:
        """Starts it; `province` and `code` as for `villagemesh up`."""
        plan = dataclasses.replace(self.plan, joining=(province, code)) if province else self.plan
        told = self.clock.told() if self.clock is not None else contextlib.nullcontext()
        with told, warnings.catch_warnings():  # the node is to outlive what started it
            warnings.simplefilter("ignore", ResourceWarning)
            local.start(self.data, plan)

    def stop(self) -> None:
        local.stop(self.data)

    def token(self, role: str, region: str = "", subject: str = "") -> str:
        """A token by this node's own issuer."""
        if self.clock is not None:
            return self._told(role, region or self.region, subject or f"{role}-1")
        return signed(self.data, role, region or self.region, subject)

    def _told(self, role: str, region: str, subject: str) -> str:
        """The same, typed on a machine whose clock is the node's."""
        key = (self.clock, role, region, subject)
        if self.clock is not None and key not in self._tokens:
            who = ("--subject", subject, "--role", role, "--region", region)
            done = self.clock.run("token", "--data", str(self.data), *who)
            assert done.returncode == 0, done.stderr
            self._tokens[key] = done.stdout.strip()
        return self._tokens[key]

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str = "",
        headers: Mapping[str, str] | None = None,
        timeout: float = 30,
    ) -> Answer:
        """A call as JSON."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        sent = {"content-type": "application/json", **(headers or {})}
        if token:
            sent["authorization"] = f"Bearer {token}"
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, sent)
            response = connection.getresponse()
            text = response.read().decode()
            told = {k.lower(): v for k, v in response.getheaders()}
        finally:
            connection.close()
        try:
            return Answer(response.status, told, json.loads(text or "{}"))
        except ValueError:
            return Answer(response.status, told, {"message": text})

    def rpc(
        self, path: str, request: Any, response: Any, *, token: str = "",
        headers: Mapping[str, str] | None = None, timeout: float = 30,
    ) -> Answer:  # fmt: skip
        """A call by gRPC; the body is the message, or the text of the refusal."""
        sent = [(k, v) for k, v in (headers or {}).items()]
        if token:
            sent.append(("authorization", f"Bearer {token}"))
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            ask = channel.unary_unary(path, type(request).SerializeToString, response.FromString)
            try:
                found, call = ask.with_call(request, metadata=sent, timeout=timeout)
            except grpc.RpcError as fault:
                refused: Any = fault
                return Answer(refused.code().name, dict(refused.initial_metadata() or ()), refused.details())
            return Answer("OK", dict(call.initial_metadata()), found)

    def file(self, region: str = WUNING, *, token: str, **more: Any) -> Answer:
        """Files a report."""
        description = more.pop("description", "河边有垃圾")
        query = f"?requestId={more.pop('request_id')}" if "request_id" in more else ""
        path = f"/habitat/v1/regions/{region}/reports{query}"
        return self.call("POST", path, report(region, description), token=token, **more)

    def rows(self, sql: str, domain: str = "habitat") -> list[tuple[Any, ...]]:
        """What the node's database says; read-only."""
        if self.plan.database:
            url = self.plan.database.replace("{domain}", domain).replace("+psycopg", "")
            with psycopg.connect(url) as server:
                return server.execute(sql).fetchall()  # type: ignore[arg-type]
        with contextlib.closing(
            sqlite3.connect(f"file:{self.data}/data/{domain}.db?mode=ro", uri=True, timeout=10)
        ) as connection:
            return connection.execute(sql).fetchall()

    def raw(self, domain: str) -> bytes:
        """What lies on the node's disk of a domain's database."""
        return b"".join(path.read_bytes() for path in (self.data / "data").glob(f"{domain}.db*"))

    def reports(self, region: str = WUNING) -> dict[str, tuple[int, str]]:
        """Version and digest of each report of a region that is kept here, by name."""
        sql = f"SELECT name, version, digest FROM reports WHERE region = '{region}'"
        return {name: (version, digest) for name, version, digest in self.rows(sql)}

    def logged(self, region: str = WUNING) -> list[tuple[int, int, int, str]]:
        """The events of a region as they are numbered here: epoch, incarnation, number, id."""
        sql = f"SELECT epoch, incarnation, number, event_id FROM mesh_outbox WHERE region = '{region}'"
        return [(e, i, n, key) for e, i, n, key in self.rows(f"{sql} ORDER BY epoch, incarnation, number")]

    def published(self, region: str = WUNING) -> list[str]:
        """The ids of a region's events that the node's broker holds, in its order."""
        return asyncio.run(self._published(f"/regions/{region}/habitat"))

    async def _published(self, source: str) -> list[str]:
        client = await bus.connect(prepare.broker_url(self.data, "service", self.port + 1))
        try:
            js: Any = client.jetstream(timeout=10)
            state, found = (await js.stream_info(events.stream("habitat"))).state, []
            for number in range(max(state.first_seq, 1), state.last_seq + 1):
                told = dict((await js.get_msg(events.stream("habitat"), number)).headers or {})
                if told["ce-source"] == source:
                    assert told["ce-id"] == told["Nats-Msg-Id"]
                    found.append(told["ce-id"])
            return found
        finally:
            await client.close()

    def pid(self, name: str) -> int:
        """The process of a program, or 0 while it waits to be started again."""
        return next((c.pid for c in local.children(self.data) if c.name == name), 0)

    def kill(self, name: str) -> None:
        """Kills a program (kill -9); the supervisor starts it again after a moment."""
        pid = until(lambda: self.pid(name))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def without(self, name: str) -> Iterator[None]:
        """The node while a program of it is dead and the supervisor does not start it again."""
        supervisor = local.running(self.data)
        os.kill(supervisor, signal.SIGSTOP)
        try:
            self.kill(name)
            yield
        finally:
            os.kill(supervisor, signal.SIGCONT)


class Mesh:
    """A province and its counties; a context manager. `counties`: each region's services; `clock`: what all
    go by at first; `database`: the province's, when it is not SQLite, with {domain} in it."""

    def __init__(
        self,
        folder: pathlib.Path,
        counties: Mapping[str, Sequence[str]] | None = None,
        clock: Clock | None = None,
        database: str = "",
    ) -> None:
        self.folder, self._clock = folder, clock
        self._wanted = {WUNING: ("habitat",), XIUSHUI: ()} if counties is None else counties
        self.province = Node(folder / PROVINCE, PROVINCE, ("habitat",), free_ports(4))
        self.province.clock = clock
        self.province.plan = dataclasses.replace(self.province.plan, database=database)
        self.counties: dict[str, Node] = {}

    def __enter__(self) -> "Mesh":
        try:
            self.province.start()
            for region, services in self._wanted.items():
                self.join(region, services)
            for region, services in self._wanted.items():
                if services:
                    until(lambda region=region: self.well(region), 30)  # type: ignore[misc]
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _fault: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for node in (*self.counties.values(), self.province):
            if node.data.exists():
                node.stop()
            if node.line is not None:
                node.line.__exit__()

    @property
    def office(self) -> int:
        """The port where the province takes nodes."""
        return self.province.port + prepare.OFFICE

    @property
    def wuning(self) -> Node:
        return self.counties[WUNING]

    @property
    def xiushui(self) -> Node:
        return self.counties[XIUSHUI]

    @property
    def line(self) -> Line:
        """Wuning's line to the province."""
        assert self.wuning.line is not None
        return self.wuning.line

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """A call of the province's administrator."""
        return self.province.call(method, path, body, token=self.province.token("ADM"))

    def invite(self, region: str, domains: Sequence[str] = ()) -> str:
        """A code for a county's node."""
        invitation = {"aboutRegion": region, "domains": list(domains)}
        made = self.ask("POST", f"/mesh/v1/regions/{PROVINCE}/invitations", invitation)
        assert made.status == 200, made.body
        return str(made.body["code"])

    def county(self, region: str, services: Sequence[str]) -> Node:
        """A county's node behind a line of its own, not started yet."""
        made = Node(self.folder / region, region, services, free_ports(4))
        made.line, made.clock = Line(self.office), self._clock
        self.counties[region] = made
        return made

    def join(self, region: str, services: Sequence[str], code: str = "") -> Node:
        """Starts a county's node and lets it join, by default with a code that grants it what it runs."""
        made = self.county(region, services)
        made.start(province=self.address(made), code=code or self.invite(region, services))
        return made

    @staticmethod
    def address(node: Node) -> str:
        """The province's, as the node is told it."""
        assert node.line is not None
        return f"https://127.0.0.1:{node.line.port}"

    def hand_over(self, to: str, region: str = WUNING) -> Answer:
        """Asks that a region's habitat be handed over to a node."""
        wanted = {"aboutRegion": region, "domain": "habitat", "receiver": to}
        return self.ask("POST", f"/mesh/v1/regions/{PROVINCE}/handovers", wanted)

    def handover(self, name: str) -> dict[str, Any]:
        """How a handover stands; nothing while the province does not answer."""
        try:
            found = self.ask("GET", f"/mesh/v1/{name}")
        except (OSError, http.client.HTTPException):
            return {}
        return dict(found.body) if found.status == 200 else {}

    def reaches(self, name: str, *states: str, seconds: float = 60) -> dict[str, Any]:
        """The handover, when it has come to one of these states."""
        wanted = [f"STATE_{state}" for state in states or ("DONE",)]
        found: dict[str, Any] = {}

        def there() -> bool:
            found.update(self.handover(name))
            return found.get("state") in wanted

        try:
            until(there, seconds)
        except AssertionError as fault:
            raise AssertionError(f"{fault}: {found}") from None
        return found

    def move(self, to: str, region: str = WUNING) -> dict[str, Any]:
        """Hands a region's habitat over, to the end."""
        asked = self.hand_over(to, region)
        assert asked.status == 200, asked.body
        return self.reaches(asked.body["name"])

    def well(self, region: str = WUNING) -> bool:
        """Whether the province reaches the region's owner."""
        path = f"/habitat/v1/regions/{region}/reports?pageSize=1"
        token = self.province.token("PA")
        found = self.province.call("GET", path, token=token, headers={"x-village-read": "owner"}, timeout=5)
        return found.status == 200 and found.served_by == region

    def caught_up(self, region: str = WUNING) -> bool:
        """Whether the province's copy of the region is what the county has."""
        county = self.counties[region].reports(region)
        return bool(county) and county == self.province.reports(region)
