"""A province's authority and the nodes that it knows, as files in a folder: whom a node trusts, without a
node."""

import datetime
import pathlib
import types
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message

from deploy.local import directory, issuer
from gateway import authority, bundles, node
from mesh import callers, config, contract, resources, rpc, runtime, trust
from village.mesh.v1 import bundle_pb2, enrolment_pb2

PROVINCE, COUNTY, SIBLING = "360000", "360423", "360424"
NOW = datetime.datetime(2026, 3, 2, 2, 0, tzinfo=datetime.UTC)


class Province:
    """The authority, the keys of nodes, and what each node has on disk."""

    def __init__(self, folder: pathlib.Path, nodes: Sequence[str] = (PROVINCE, COUNTY, SIBLING)) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        key = authority.new_key()
        (folder / "authority.key").write_bytes(key)
        (folder / "authority.pem").write_bytes(authority.self_signed(key, PROVINCE, NOW))
        self.authority = authority.Authority(folder / "authority.key", folder / "authority.pem")
        self.keys = {region: authority.new_key() for region in nodes}
        self.content = bundle_pb2.BundleContent(province=PROVINCE, version=1)
        for region, its in self.keys.items():
            self.content.nodes.add(region=region, public_key=authority.public_key(its))

    def place(self, region: str) -> pathlib.Path:
        """The folder of a node's trust."""
        return self._folder / region

    def publish(self, now: datetime.datetime = NOW) -> bundle_pb2.Bundle:
        """Signs what is in `content` and writes it to every node's disk."""
        self.content.version += 1
        bundle = self.authority.sign(self.content, now)
        for region, key in self.keys.items():
            self.place(region).mkdir(exist_ok=True)
            (self.place(region) / "node.key").write_bytes(key)
            authority.write(self.place(region) / trust.AUTHORITY, self.authority.certificate)
            authority.write(self.place(region) / trust.BUNDLE, bundle.SerializeToString())
        return bundle

    def revoke(self, region: str) -> None:
        """Shuts a node out, in the next bundle."""
        next(n for n in self.content.nodes if n.region == region).revoked = True

    def directory(self, region: str) -> trust.Directory:
        """A node's own view, as it stands on its disk."""
        return trust.Directory(self.place(region), self.place(region) / "node.key", region)


class Office:
    """The node process of a province, as a county joins it: the real chain and database, no network."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.now = resources.utcnow()  # the issuer's tokens are of today
        directory.lay_out(folder, PROVINCE)
        issuer.create(folder, PROVINCE)
        directory.create(folder / directory.USERS, '{"users": []}')
        self._issuer = folder
        environ = {
            "VILLAGEMESH_REGION": PROVINCE, "VILLAGEMESH_LISTEN": "unix:unused",
            "VILLAGEMESH_DATABASE_URL": f"sqlite:///{folder}/{{domain}}.db",
            "VILLAGEMESH_NATS_URL": "nats://127.0.0.1:1", **directory.files(folder),
        }  # fmt: skip
        settings = config.load(environ)
        self.process: Any = types.SimpleNamespace(settings=settings, office=None, lines=None, conditions=list)
        self.office = bundles.Office(
            region=PROVINCE, folder=folder / "trust", key=folder / directory.AUTHORITY_KEY,
            issuers=settings.issuers, node_key=folder / directory.NODE_KEY, users=folder / directory.USERS,
            software="test", domains=["habitat"],
        )  # fmt: skip
        self.process.office = self.office
        self.office.begin(self.now)
        self.directory = trust.Directory(folder / "trust", folder / directory.NODE_KEY, PROVINCE)
        self.process.directory = self.directory
        (hosted,), self.chain = runtime.assemble(
            [node.SERVICE], settings, clock=lambda: self.now, node=self.process, directory=self.directory
        )
        self.store: Any = hosted.store
        self.methods = contract.read("village.mesh.v1").methods

    def close(self) -> None:
        self.store.database.close()

    def renew(self) -> trust.View:
        """What the node process does every second."""
        self.office.renew(self.store, self.now)
        return self.directory.refresh()

    def administrator(self) -> dict[str, str]:
        """The headers of the province's administrator."""
        token = issuer.sign(
            self._issuer, subject="adm", roles=["ADM"], region=PROVINCE, organisation="",
            lasting=datetime.timedelta(days=1),
        )  # fmt: skip
        return {"authorization": f"Bearer {token}"}

    def raw(self, method: str, raw: bytes, headers: dict[str, str]) -> bytes:
        answer = self.chain.answer(rpc.Incoming(self.methods[method].path, raw, headers))
        assert isinstance(answer, bytes)
        return answer

    def call(self, request: Message, headers: dict[str, str]) -> Any:
        """Calls the method that takes such requests."""
        method = next(m for m in self.methods.values() if m.request is type(request))
        return method.response.FromString(self.raw(method.name, request.SerializeToString(), headers))

    def invite(self, region: str, *domains: str) -> str:
        """The code of an invitation."""
        invited = enrolment_pb2.InviteNodeRequest(
            parent=f"regions/{PROVINCE}", invitation={"about_region": region, "domains": domains}
        )
        return str(self.call(invited, self.administrator()).code)

    def joining(self, region: str, code: str, key: bytes, **more: Any) -> enrolment_pb2.EnrolNodeRequest:
        """What a node sends to join."""
        usual = {"issuers": "[]", "signing_request": authority.signing_request(key, region)}
        return enrolment_pb2.EnrolNodeRequest(
            parent=f"regions/{PROVINCE}", region=region, code=code, **{**usual, **more}
        )

    def as_node(self, region: str, key: bytes, folder: pathlib.Path) -> dict[str, str]:
        """The headers of a node that has joined with that key."""
        folder.mkdir(exist_ok=True)
        (folder / "key.pem").write_bytes(key)
        return {callers.NODE: trust.Directory(folder, folder / "key.pem", region).token(PROVINCE, self.now)}
