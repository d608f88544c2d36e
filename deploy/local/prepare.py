"""Prepares a node on this machine: its directory, the broker's and Envoy's configuration, and what the
supervisor is to run. Separate from running it; it may be done again."""

import dataclasses
import datetime
import json
import os
import pathlib
import sys
from typing import Any

import deploy
from deploy.local import broker, directory, issuer, supervisor
from gateway import VERSION, authority, bundles, envoy, published
from mesh import trust

ROOT = pathlib.Path(deploy.__path__[0]).resolve().parent
CONTRACTS = ROOT / "gen/village.binpb"
SERVICES_SOCKET = "unix:run/services.sock"
PATIENCE_SECONDS = 15
OFFICE, LINE, LEAVES = 2, 2, 3
"""Ports of a node besides the gateway's and the next, its broker's: at the province the one where other nodes
call, and the one where the broker takes their lines; elsewhere the one where the node's own line begins."""
PLAN = "secrets/plan.json"
"""May hold a database's password."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a node on this machine is to be."""

    region: str
    services: tuple[str, ...]
    port: int = 8423
    address: str = "127.0.0.1"
    cors_origins: tuple[str, ...] = ()
    database: str = ""
    """SQLAlchemy URL with `{domain}`; empty for SQLite files in the directory."""
    office_address: str = ""
    """At a province: where other nodes call, at the port after the broker's. The gateway's address when
    empty."""
    joining: tuple[str, str] | None = None
    """Elsewhere: the address of the province's office, and the code, which is needed once."""
    issuers: pathlib.Path | None = None
    """Production: whose tokens count. None: the node vouches for itself with a development issuer."""
    feeds: str = ""
    """Where devices report, as in `mesh.config`: `hj212=HOST:PORT,mqtt=HOST:PORT`."""
    otlp: str = ""
    """Where gateway and services send traces: HOST:PORT. Nowhere when empty."""
    trace_ratio: float = 0.1
    calls_per_second: int = 2000
    calls_per_caller: int = 0


def remembered(data: pathlib.Path) -> dict[str, str]:
    """What the node was last started with that it must not lose by being left out: `database` and
    `issuers`, empty where there was none."""
    try:
        return dict(json.loads((data / PLAN).read_text()))
    except FileNotFoundError:
        return {"database": "", "issuers": ""}


def prepare(data: pathlib.Path, region: str, *, production: bool = False) -> None:
    """Makes the directory, its secrets and, unless in production, the development issuer. What exists is
    kept. BadNode when `data` is another region's."""
    directory.lay_out(data, region)
    if production:
        issuer.remove(data)
    else:
        issuer.create(data, region)


def configure(data: pathlib.Path, plan: Plan) -> None:
    """Writes what the programs of the node read, after `prepare`. ValueError for an unknown domain."""
    _publish(data, plan)
    spec = gateway_spec(data, plan)
    envoy.write(spec, data)
    _configure_broker(data, plan)
    kept = {"database": plan.database, "issuers": str(plan.issuers.resolve()) if plan.issuers else ""}
    directory.replace(data / PLAN, json.dumps(kept))
    programs = {"patience": PATIENCE_SECONDS, "programs": _programs(data, plan, spec)}
    directory.replace(data / supervisor.PROGRAMS, json.dumps(programs, indent=1))


def _publish(data: pathlib.Path, plan: Plan) -> None:
    """At a province the first bundle, before there is anybody to sign it while running."""
    folder = data / "trust"
    if not (data / directory.AUTHORITY_KEY).exists() or (folder / trust.BUNDLE).exists():
        return
    office = bundles.Office(
        region=plan.region, folder=folder, key=data / directory.AUTHORITY_KEY,
        issuers=issuers_file(data, plan), node_key=data / directory.NODE_KEY, users=data / directory.USERS,
        software=VERSION, domains=plan.services,
    )  # fmt: skip
    office.begin(datetime.datetime.now(datetime.UTC))


def _configure_broker(data: pathlib.Path, plan: Plan) -> None:
    words, line = directory.passwords(data), directory.line(data)
    users = data / directory.USERS
    before = users.read_text() if users.exists() else ""
    directory.replace(
        users, broker.users(words, (*published.domains(published.read(CONTRACTS)), "mesh"), before)
    )
    text = broker.configuration(
        server_name=f"node-{plan.region}",
        port=plan.port + 1,
        store="data/nats",
        passwords=words,
        users_file=users.name,
        leaves=plan.port + LEAVES if (data / directory.AUTHORITY_KEY).exists() else 0,
        mqtt=dict(pair.split("=", 1) for pair in plan.feeds.split(",") if pair).get("mqtt", ""),
        line=f"ws://{line['user']}:{line['password']}@127.0.0.1:{plan.port + LINE}" if line else "",
    )
    directory.replace(data / "secrets/nats.conf", text)


def gateway_spec(data: pathlib.Path, plan: Plan) -> envoy.NodeSpec:
    """The node as its gateway sees it. Sockets are relative, because a unix socket's path may have 107 bytes
    and `data` may be long."""
    return envoy.NodeSpec(
        region=plan.region,
        address=plan.address,
        port=plan.port,
        endpoints=dict.fromkeys(plan.services, SERVICES_SOCKET),
        node_endpoint=SERVICES_SOCKET,
        issuers=_issuers(issuers_file(data, plan)),
        descriptor_set=CONTRACTS,
        cors_origins=plan.cors_origins,
        **_mesh_spec(data, plan),
        calls_per_second=plan.calls_per_second,
        calls_per_caller=plan.calls_per_caller,
        trace_ratio=plan.trace_ratio if plan.otlp else None,
    )


def _mesh_spec(data: pathlib.Path, plan: Plan) -> dict[str, Any]:
    """The node's part in a mesh, as its gateway sees it."""
    root = data.resolve()
    files = {"authority": "trust/authority.pem", "certificate": "trust/node.pem", "key": directory.NODE_KEY}
    if (data / directory.AUTHORITY_KEY).exists():
        office = envoy.Office(port=plan.port + OFFICE, address=plan.office_address or plan.address,
                              leaves=f"127.0.0.1:{plan.port + LEAVES}", **files)  # fmt: skip
        return {"office": office}
    if line := directory.line(root):
        name = authority.server_name(line["province"])
        here = f"127.0.0.1:{plan.port + LINE}"
        return {"province": envoy.Province(address=line["address"], name=name, line=here, **files)}
    return {}


def issuers_file(data: pathlib.Path, plan: Plan) -> pathlib.Path:
    """The file that says whose tokens count."""
    return plan.issuers.resolve() if plan.issuers else data / "trust/issuers.json"


def environment(data: pathlib.Path, plan: Plan) -> dict[str, str]:
    """The settings of the services (`mesh.config`), and where Python finds them."""
    return {
        **python_environment(),
        "VILLAGEMESH_REGION": plan.region,
        "VILLAGEMESH_LISTEN": SERVICES_SOCKET,
        "VILLAGEMESH_DATABASE_URL": plan.database or f"sqlite:///{data.resolve()}/data/{{domain}}.db",
        "VILLAGEMESH_NATS_URL": broker_url(data, "service", plan.port + 1),
        **directory.files(data),
        **_lines(data, plan),
        "VILLAGEMESH_ISSUERS": str(issuers_file(data, plan).resolve()),
        "VILLAGEMESH_DOMAINS": ",".join(plan.services),
        "VILLAGEMESH_FEEDS": plan.feeds,
        "VILLAGEMESH_OTLP": plan.otlp,
        "VILLAGEMESH_TRACE_RATIO": str(plan.trace_ratio),
    }


def _lines(data: pathlib.Path, plan: Plan) -> dict[str, str]:
    """Where the lines to other nodes begin."""
    if (data / directory.AUTHORITY_KEY).exists():
        return {"VILLAGEMESH_BROKER_SYSTEM_URL": broker_url(data, "system", plan.port + 1)}
    return {"VILLAGEMESH_UPLINK": f"127.0.0.1:{plan.port + LINE}"} if directory.line(data) else {}


def python_environment() -> dict[str, str]:
    """Where Python finds this software, wherever it is started."""
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen'}"}


def broker_url(data: pathlib.Path, user: str, port: int) -> str:
    """The node's broker for one of `directory.BROKER_USERS`."""
    return f"nats://{user}:{directory.passwords(data)[user]}@127.0.0.1:{port}"


def _programs(data: pathlib.Path, plan: Plan, spec: envoy.NodeSpec) -> list[dict[str, Any]]:
    serve = [sys.executable, "-m", "cli.main", "serve", *plan.services, published.NODE]
    commands = {
        "nats": (broker.command("secrets/nats.conf"), broker.ENVIRONMENT),
        "services": (serve, environment(data, plan)),
        "envoy": (envoy.command(spec, concurrency=min(2, os.cpu_count() or 1)), {}),
    }
    return [
        {"name": name, "command": command, "environment": variables, "log": f"logs/{name}.log"}
        for name, (command, variables) in commands.items()
    ]


def _issuers(file: pathlib.Path) -> tuple[envoy.Issuer, ...]:
    try:
        entries = json.loads(file.read_text())["issuers"]
        return tuple(
            envoy.Issuer(issuer=entry["issuer"], jwks=file.parent / entry["jwks"]) for entry in entries
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise directory.BadNode(f"{file} does not say whose tokens count: {error!r}") from error
