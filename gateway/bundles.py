"""The bundle: what the province's records say of nodes, grants and issuers, signed anew whenever that
changes, and once a day. Separate from the handlers, because it is also renewed by itself."""

import datetime
import json
import logging
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from gateway import VERSION, authority
from mesh import regions, resources, store, trust
from village.mesh.v1 import bundle_pb2, enrolment_pb2
from village.type.v1 import level_pb2

RENEWED = datetime.timedelta(days=1)
log = logging.getLogger(__name__)


def level_name(region: str) -> str:
    """The level of a region as in `COUNTY`."""
    return str(level_pb2.Level.Name(regions.level(region))).removeprefix("LEVEL_")  # type: ignore[arg-type]


def vouching(issuers: pathlib.Path) -> list[dict[str, Any]]:
    """The entries of an `issuers.json`, each with its keys in place of the name of their file."""
    entries = json.loads(issuers.read_text())["issuers"]
    return [{**e, "jwks": json.loads((issuers.parent / e["jwks"]).read_text())} for e in entries]


def read(path: pathlib.Path) -> bundle_pb2.Bundle:
    """A bundle as it was kept. BadBundle when it cannot be read."""
    try:
        return bundle_pb2.Bundle.FromString(path.read_bytes())
    except DecodeError as fault:
        raise trust.BadBundle(f"{path} cannot be read") from fault


class Office:
    """Where the province signs. `users`: the broker's file of users, in which each node has its line."""

    def __init__(
        self, *, region: str, folder: pathlib.Path, key: pathlib.Path, issuers: pathlib.Path,
        node_key: pathlib.Path, users: pathlib.Path, software: str, domains: Sequence[str],
    ) -> None:  # fmt: skip
        self.region, self._folder, self._issuers, self._users = region, folder, issuers, users
        self.authority = authority.Authority(key, folder / trust.AUTHORITY)
        self._public_key = authority.public_key(node_key.read_bytes())
        self._software, self._domains = software, sorted(domains)
        self.took_lines = False
        """Whether a line that somebody may be using ended when the bundle was renewed last."""

    def begin(self, now: datetime.datetime) -> None:
        """Publishes the first bundle, of a mesh that nobody has joined."""
        content = self._empty()
        content.version = 1
        self._publish(content, now)

    def published(self) -> bundle_pb2.Bundle:
        """The bundle as it was last signed."""
        return bundle_pb2.Bundle.FromString((self._folder / trust.BUNDLE).read_bytes())

    def bundle(
        self, opened: store.Store, now: datetime.datetime, more: Iterable[Any] = ()
    ) -> bundle_pb2.Bundle:
        """A signed bundle of what is recorded and of `more`, which is about to be."""
        content = self._content(opened, list(more))
        content.version = self._last().version + 1
        return self.authority.sign(content, now)

    def renew(self, opened: store.Store, now: datetime.datetime) -> bool:
        """Signs and publishes the bundle, and gives each node its line, if anything has changed or a day has
        passed; whether it was done."""
        content, last = self._content(opened, []), self._last()
        fresh = last.version and now < resources.moment(last.issue_time) + RENEWED
        content.version = last.version
        content.issue_time.CopyFrom(last.issue_time)
        content.expire_time.CopyFrom(last.expire_time)
        if fresh and content == last:
            return False
        content.version = last.version + 1
        self._give_lines(opened)
        self._publish(content, now)
        log.info("the directory has changed", extra={"about": {"version": content.version}})
        return True

    def _publish(self, content: bundle_pb2.BundleContent, now: datetime.datetime) -> None:
        bundle = self.authority.sign(content, now)
        certificate = self.authority.certify(self._public_key, self.region, now)
        authority.write(self._folder / trust.CERTIFICATE, certificate.encode())
        authority.write(self._folder / trust.BUNDLE, bundle.SerializeToString())

    def _last(self) -> bundle_pb2.BundleContent:
        try:
            return bundle_pb2.BundleContent.FromString(self.published().content)
        except FileNotFoundError:
            return bundle_pb2.BundleContent()

    def _empty(self) -> bundle_pb2.BundleContent:
        found = bundle_pb2.BundleContent(province=self.region, domains=self._domains)
        found.nodes.add(region=self.region, public_key=self._public_key, software=self._software)
        for entry in vouching(self._issuers):
            found.issuers.add(**{**entry, "jwks": json.dumps(entry["jwks"])})
        return found

    def _content(self, opened: store.Store, more: list[Any]) -> bundle_pb2.BundleContent:
        found = self._empty()
        enrolments = self._current(opened, enrolment_pb2.Enrolment, more)
        for enrolment in enrolments:
            revoked = enrolment.HasField("revoke_time")
            found.nodes.add(
                region=enrolment.about_region, public_key=enrolment.public_key, revoked=revoked,
                software=enrolment.software,
            )  # fmt: skip
        self._vouch(found, [e for e in enrolments if not e.HasField("revoke_time")])
        for grant in self._current(opened, enrolment_pb2.Grant, more):
            found.grants.add(
                region=grant.about_region, domain=grant.domain, node=grant.node, epoch=grant.epoch
            )
        return found

    @staticmethod
    def _vouch(found: bundle_pb2.BundleContent, enrolments: list[Any]) -> None:
        """Adds those that nodes vouch for. An issuer is the province's, or the node's that named it first: no
        other can take its place, or make an end of its tokens."""
        taken = {entry.issuer for entry in found.issuers}
        for enrolment in sorted(enrolments, key=lambda e: (e.enrol_time.ToNanoseconds(), e.name)):
            for entry in json.loads(enrolment.issuers):
                if entry["issuer"] not in taken:
                    taken.add(entry["issuer"])
                    found.issuers.add(**entry)

    @staticmethod
    def _current(opened: store.Store, cls: Any, more: list[Any]) -> list[Any]:
        found = {m.name: m for m in opened.every(cls)}
        found.update({m.name: m for m in more if isinstance(m, cls)})
        return [found[name] for name in sorted(found)]

    def _give_lines(self, opened: store.Store) -> None:
        users = json.loads(self._users.read_text())
        kept = [u for u in users["users"] if not u["user"].startswith("node-")]
        before = [u for u in users["users"] if u["user"].startswith("node-")]
        lines = [
            authority.leaf_user(
                e.about_region, self.authority.password(e.about_region, resources.moment(e.enrol_time))
            )
            for e in opened.every(enrolment_pb2.Enrolment)
            if not e.HasField("revoke_time")
        ]
        self.took_lines = any(line not in lines for line in before)
        authority.write(self._users, json.dumps({"users": [*kept, *lines]}, indent=1).encode())


def of(process: Any) -> Office:
    """The office of a province's process."""
    if process.office is None:
        settings = process.settings
        process.office = Office(
            region=settings.region,
            folder=pathlib.Path(settings.trust),
            key=pathlib.Path(settings.authority_key),
            issuers=settings.issuers,
            node_key=pathlib.Path(settings.node_key),
            users=pathlib.Path(settings.broker_users),
            software=VERSION,
            domains=settings.runs,
        )
    return process.office  # type: ignore[no-any-return]
