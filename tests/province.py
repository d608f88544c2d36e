"""A province's authority and the nodes that it knows, as files in a folder: whom a node trusts, without a node."""

import datetime
import pathlib
from collections.abc import Sequence

from gateway import authority
from mesh import trust
from village.mesh.v1 import bundle_pb2

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
