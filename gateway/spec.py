"""What Envoy has to know of a node. Separate from the rendering, so that a laptop's supervisor and an
operator in Kubernetes can describe a node without a word of Envoy's."""

import dataclasses
import pathlib
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Issuer:
    """One issuer of tokens, as an entry of the node's `issuers.json` names it."""

    issuer: str
    """The `iss` of its tokens."""

    jwks: pathlib.Path
    """File with its public keys (JWKS), read when rendering: after a change, render again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Office:
    """At a province: where other nodes call, over TLS, each with its certificate."""

    address: str
    port: int
    leaves: str
    """Where the broker takes their lines: HOST:PORT."""
    authority: str
    certificate: str
    key: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Province:
    """Elsewhere: the province that the node belongs to."""

    address: str
    """HOST:PORT of the province's office."""
    name: str
    """The name in its certificate."""
    line: str
    """Where this node's own programs reach the province: HOST:PORT of this gateway."""
    authority: str
    certificate: str
    key: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeSpec:
    """A node, as its gateway sees it. Texts are paths as Envoy sees them, relative ones from its
    working directory; `pathlib.Path` is read when rendering."""

    region: str
    """GB/T 2260 code of the node's region, six digits."""

    address: str
    """Address that Envoy listens on."""

    port: int
    """Port for gRPC, gRPC-Web and JSON alike."""

    endpoints: Mapping[str, str]
    """Where each deployed domain is served: `unix:PATH` or `HOST:PORT`."""

    node_endpoint: str
    """Where the node process is served: directory, reflection and health."""

    issuers: tuple[Issuer, ...]
    """Whose tokens may pass; at least one."""

    audience: str = "village-mesh"
    """The `aud` that tokens must carry."""

    descriptor_set: pathlib.Path
    """The contracts: `gen/village.binpb`."""

    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call, exact as in `https://app.example`; none by default."""

    office: Office | None = None
    """At a province: where other nodes call."""

    province: Province | None = None
    """At a node that has joined: where it calls."""

    directory: str = "envoy"
    """Where `bootstrap.json` and the watched `dyn/` are."""

    admin_socket: str = "run/envoy.sock"
    """Unix socket of Envoy's admin interface, for the node's own user only."""

    access_log: str = "logs/access.log"
    """File for one JSON line per call."""

    calls_per_second: int = 2000
    """Calls let in per second, in bursts of as many; further ones are answered 429."""

    calls_per_caller: int = 0
    """How many of them one caller may make; 0 for a quarter."""

    trace_ratio: float | None = None
    """Which share of traces Envoy sends spans of, to the node process; those that a caller sampled are
    sent always. None: no spans."""

    deadline: str = "15s"
    """The longest that a unary call may take, whatever deadline its caller states."""

    connections: int = 5000
    """Client connections at once."""

    heap_bytes: int = 512 * 1024 * 1024
    """Memory at which Envoy stops taking requests."""

    @property
    def in_mesh(self) -> bool:
        """Whether the node belongs to a mesh."""
        return self.office is not None or self.province is not None
