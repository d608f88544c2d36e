"""Settings of one process, read once from the environment and frozen. The only reader of `os.environ`,
so that everything else is told what it needs; kept free of heavy imports, because the supervisor reads
it too."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping


class MissingSetting(SystemExit):
    """A required variable is absent; the process stops and names it."""

    def __init__(self, variable: str, why: str) -> None:
        super().__init__(f"villagemesh: {variable} is not set: {why}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a `serve` process. Field `x` is read from `VILLAGEMESH_X`."""

    region: str
    """GB/T 2260 code of the node's region, six digits."""

    listen: str
    """Where gRPC is served: `unix:PATH` or `HOST:PORT`."""

    database_url: str
    """SQLAlchemy URL in which `{domain}` stands for the domain: `sqlite:////DIR/{domain}.db` or
    `postgresql+psycopg://…/{domain}`."""

    nats_url: str
    """The node's broker with the relay's credentials: `nats://USER:PASSWORD@HOST:PORT`."""

    key_ring: pathlib.Path
    """File of the data keys, JSON as `mesh.keys` describes it. Never beside the data's backup."""

    seal_ring: pathlib.Path
    """File of the keys of what is under seal, in the same form; kept by somebody else where that can be."""

    issuers: pathlib.Path
    """File that says whose tokens count and for what, JSON as `mesh.identity` describes it."""

    attachments_url: str
    """Where files are kept: `file:///DIR`, or `s3://BUCKET/PREFIX` with the usual variables of AWS."""

    audit_key: pathlib.Path
    """File of the Ed25519 key that signs the audit trail, PEM. Not the database administrator's to read."""

    anchors: pathlib.Path
    """Folder where the heads of the audit trail are kept as well, best on another disk."""

    trust: str = ""
    """Folder of what the node trusts (`mesh.trust`): the province's bundle. Empty for a node by itself."""

    node_key: str = ""
    """File of the key by which the node proves who it is, PEM; with `trust`."""

    uplink: str = ""
    """Where the line to the province begins: HOST:PORT of this node's own gateway. Empty at the province."""

    authority_key: str = ""
    """File of the key that signs certificates and bundles, PEM. At the province only."""

    broker_users: str = ""
    """The broker's file of users, in which the node process gives each node its line. At the province
    only."""

    broker_system_url: str = ""
    """The broker with the credentials of its system account, to make it read that file again."""

    domains: str = ""
    """The domains that the node runs, in whichever processes, as in `habitat,culture`: how `serve node` asks
    each of their services, in a mesh, and which it leaves the copying to."""

    feeds: str = ""
    """Where devices report: `hj212=HOST:PORT,mqtt=HOST:PORT`, by the names that services give their feeds."""

    audience: str = "village-mesh"
    """The `aud` that tokens must carry."""

    threads: int = 6
    """Calls worked on at once; four times as many may wait, further ones get RESOURCE_EXHAUSTED. More than
    three for each core make every call slower, because Python runs one at a time."""

    shared: int = 0
    """1 when other processes serve the same address and databases."""

    background: int = 1
    """0 when another process does what is done beside calls: relay, reactions, timers, seals."""

    metrics: str = ""
    """Where Prometheus finds `/metrics`: HOST:PORT. Nowhere when empty. Not a public address."""

    otlp: str = ""
    """Where traces are sent by OTLP over gRPC: HOST:PORT. Nowhere when empty."""

    trace_ratio: float = 0.1
    """Which share of traces is sent; those that a caller sampled are sent always."""

    log_level: str = "INFO"
    """Python level name."""

    @property
    def runs(self) -> tuple[str, ...]:
        """`domains`, one by one."""
        return tuple(filter(None, self.domains.split(",")))


def traces(environ: Mapping[str, str] = os.environ) -> tuple[str, float]:
    """`otlp` and `trace_ratio` by themselves, for whoever tells the gateway too."""
    ratio = environ.get("VILLAGEMESH_TRACE_RATIO", "")
    return environ.get("VILLAGEMESH_OTLP", ""), float(ratio) if ratio else Settings.trace_ratio


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Reads the settings; stops the process with the variable's name when a required one is absent."""
    values: dict[str, object] = {}
    for field in dataclasses.fields(Settings):
        variable = f"VILLAGEMESH_{field.name.upper()}"
        text = environ.get(variable, "")
        if not text:
            if field.default is dataclasses.MISSING:
                raise MissingSetting(variable, f"see Settings.{field.name} in mesh/config.py")
            continue
        values[field.name] = field.type(text) if callable(field.type) else text
    return Settings(**values)  # type: ignore[arg-type]
