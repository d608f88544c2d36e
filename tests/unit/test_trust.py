"""Whom a node trusts: the bundle that its province's authority signed, and nodes that prove who they are by
it."""

import base64
import datetime
import json
import pathlib

import jwt
import pytest

from mesh import errors, resources, trust
from tests.province import COUNTY, NOW, PROVINCE, SIBLING, Province
from village.mesh.v1 import bundle_pb2

LATER = NOW + datetime.timedelta(hours=1)


@pytest.fixture
def province(tmp_path: pathlib.Path) -> Province:
    found = Province(tmp_path)
    found.content.grants.add(region=COUNTY, domain="habitat", node=COUNTY, epoch=2)
    found.publish()
    return found


class TestBundle:
    def test_says_what_was_signed(self, province: Province) -> None:
        view = trust.opened(province.publish(), province.authority.certificate)
        assert (view.province, view.issued, view.expires) == (PROVINCE, NOW, NOW + trust.LIFE)
        assert set(view.nodes) == {PROVINCE, COUNTY, SIBLING}

    def test_of_another_authority_is_refused(self, province: Province, tmp_path: pathlib.Path) -> None:
        other = Province(tmp_path / "other")
        with pytest.raises(trust.BadBundle):
            trust.opened(other.publish(), province.authority.certificate)

    @pytest.mark.parametrize("part", ["content", "signature"])
    def test_that_was_altered_is_refused(self, province: Province, part: str) -> None:
        for at in (0, 7, -1):
            bundle = province.publish()
            raw = bytearray(getattr(bundle, part))
            raw[at] ^= 1
            setattr(bundle, part, bytes(raw))
            with pytest.raises(trust.BadBundle):
                trust.opened(bundle, province.authority.certificate)
        with pytest.raises(trust.BadBundle):
            trust.opened(bundle_pb2.Bundle(), province.authority.certificate)


class TestView:
    def test_names_the_owner(self, province: Province) -> None:
        view = province.directory(COUNTY).refresh()
        assert view.owner(COUNTY, "habitat") == COUNTY
        assert view.owner(COUNTY, "emergency") == PROVINCE, "what is not granted is the province's"
        assert view.owner(SIBLING, "habitat") == PROVINCE
        assert view.owner(PROVINCE, "habitat") == PROVINCE
        assert view.owner("360425", "habitat") == "", "a region that the mesh does not know"
        assert view.owner("110000", "habitat") == ""

    def test_leaves_to_every_node_what_it_keeps_itself(self, province: Province) -> None:
        view = province.directory(COUNTY).refresh()
        assert [view.owner(r, trust.NODE_DOMAIN) for r in (COUNTY, PROVINCE, "360425")] == [
            COUNTY,
            PROVINCE,
            "",
        ]

    def test_counts_owners(self, province: Province) -> None:
        view = province.directory(COUNTY).refresh()
        assert [view.epoch(COUNTY, d) for d in ("habitat", "emergency")] == [2, 1]


class TestDirectory:
    def test_looks_again_when_the_bundle_has_changed(self, province: Province) -> None:
        directory = province.directory(COUNTY)
        assert directory.refresh().owner(SIBLING, "habitat") == PROVINCE
        province.content.grants.add(region=SIBLING, domain="habitat", node=SIBLING, epoch=2)
        province.publish()
        assert directory.refresh().owner(SIBLING, "habitat") == SIBLING

    @pytest.mark.parametrize("raw", [b"", b"\xff\xff", b"{", None])
    def test_stays_as_it_was_while_the_bundle_cannot_be_used(
        self, province: Province, raw: bytes | None
    ) -> None:
        directory = province.directory(COUNTY)
        before, path = directory.refresh(), province.place(COUNTY) / trust.BUNDLE
        if raw is None:
            path.unlink()
        else:
            path.write_bytes(raw)
        assert directory.refresh() is before

    def test_takes_no_bundle_of_another_authority(self, province: Province, tmp_path: pathlib.Path) -> None:
        directory = province.directory(COUNTY)
        before = directory.refresh()
        other = Province(tmp_path / "other").publish()
        (province.place(COUNTY) / trust.BUNDLE).write_bytes(other.SerializeToString())
        assert directory.refresh() is before

    def test_expires(self, province: Province) -> None:
        directory = province.directory(COUNTY)
        assert not directory.expired(NOW + trust.LIFE)
        assert directory.expired(NOW + trust.LIFE + datetime.timedelta(seconds=1))

    def test_knows_whom_it_dials(self, province: Province) -> None:
        assert (province.directory(COUNTY).parent(), province.directory(PROVINCE).parent()) == (PROVINCE, "")
        assert province.directory(PROVINCE).is_province


def forged(province: Province, key_of: str = COUNTY, kid: str | None = COUNTY, **claims: object) -> str:
    """A token as a node makes it, with claims replaced."""
    stamp = int(NOW.timestamp())
    usual = {"iss": trust.ISSUER, "sub": COUNTY, "aud": PROVINCE, "iat": stamp, "exp": stamp + 120}
    key = province.keys[key_of].decode()
    return jwt.encode({**usual, **claims}, key, "ES256", {"kid": kid} if kid is not None else None)


class TestToken:
    def test_proves_its_node_to_whom_it_is_for(self, province: Province) -> None:
        token = province.directory(COUNTY).token(PROVINCE, NOW)
        assert province.directory(PROVINCE).sender(token, NOW) == COUNTY
        assert province.directory(PROVINCE).sender(forged(province), NOW) == COUNTY

    def test_of_its_own_counts_whatever_the_mesh_thinks_of_the_node(self, province: Province) -> None:
        """As when its bundle has ended, or it is shut out: it goes from one of its processes to another."""
        province.revoke(COUNTY)
        province.publish()
        directory, later = province.directory(COUNTY), NOW + 2 * trust.LIFE
        assert directory.sender(directory.token(COUNTY, later), later) == COUNTY
        with pytest.raises(trust.NodeNotTrusted):
            directory.sender(province.directory(PROVINCE).token(COUNTY, later), later)
        with pytest.raises(trust.NodeNotTrusted):
            directory.sender(forged(province, PROVINCE, aud=COUNTY), NOW)
        with pytest.raises(trust.NodeNotTrusted):
            province.directory(PROVINCE).sender(directory.token(PROVINCE, NOW), NOW)

    def test_is_made_again_before_it_ends(self, province: Province) -> None:
        directory = province.directory(COUNTY)
        first = directory.token(PROVINCE, NOW)
        assert directory.token(PROVINCE, NOW + datetime.timedelta(seconds=59)) == first
        assert directory.token(PROVINCE, NOW + datetime.timedelta(seconds=61)) != first

    def test_for_another_node_is_refused(self, province: Province) -> None:
        token = province.directory(COUNTY).token(PROVINCE, NOW)
        with pytest.raises(errors.Unauthenticated):
            province.directory(SIBLING).sender(token, NOW)

    def test_of_a_node_that_was_shut_out_is_refused(self, province: Province) -> None:
        directory, token = province.directory(PROVINCE), province.directory(COUNTY).token(PROVINCE, NOW)
        assert directory.sender(token, NOW) == COUNTY
        province.revoke(COUNTY)
        province.publish()
        directory.refresh()
        with pytest.raises(errors.Unauthenticated, match="does not belong"):
            directory.sender(token, NOW)

    def test_of_a_node_that_never_joined_is_refused(self, province: Province, tmp_path: pathlib.Path) -> None:
        stranger = Province(tmp_path / "other", nodes=[PROVINCE, "360425"])
        stranger.publish()
        for region in ("360425", PROVINCE):
            token = stranger.directory(region).token(PROVINCE, NOW)
            with pytest.raises(errors.Unauthenticated):
                province.directory(PROVINCE).sender(token, NOW)

    def test_counts_for_nothing_when_this_node_s_trust_has_expired(self, province: Province) -> None:
        end = NOW + trust.LIFE + datetime.timedelta(seconds=1)
        token = province.directory(COUNTY).token(PROVINCE, end)
        with pytest.raises(errors.Unauthenticated, match="expired"):
            province.directory(PROVINCE).sender(token, end)

    @pytest.mark.parametrize("hours", [-6.1, 6.1])
    def test_out_of_its_time_is_refused(self, province: Province, hours: float) -> None:
        token = province.directory(COUNTY).token(PROVINCE, NOW + datetime.timedelta(hours=hours))
        with pytest.raises(errors.Unauthenticated, match="clock"):
            province.directory(PROVINCE).sender(token, NOW)

    def test_of_a_node_whose_clock_is_hours_off_is_good(self, province: Province) -> None:
        for hours in (-5.9, 5.9):
            token = province.directory(COUNTY).token(PROVINCE, NOW + datetime.timedelta(hours=hours))
            assert province.directory(PROVINCE).sender(token, NOW) == COUNTY

    def test_that_is_forged_is_refused(self, province: Province) -> None:
        """Another node's name under one's own key, other claims, and what is no token at all."""
        directory = province.directory(PROVINCE)
        deep = base64.urlsafe_b64encode(b"[" * 30_000).decode().rstrip("=")
        head, body, signature = forged(province).split(".")
        none = (
            base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": COUNTY}).encode()).decode().rstrip("=")
        )
        tokens = [
            forged(province, key_of=SIBLING), forged(province, sub=SIBLING), forged(province, kid=None),
            forged(province, key_of=SIBLING, kid=SIBLING), forged(province, iss="x"),
            forged(province, aud=None),
            forged(province, exp="x"), forged(province, exp=None), forged(province, iat=[1]),
            forged(province, exp=float("inf"), iat=float("nan")),
            forged(province, exp=10**400), f"{none}.{body}.", f"{head}.{body}.",
            f"{deep}.{body}.{signature}", f"{head}.{deep}.{signature}", "", "x", "..", "é.é.é", "\x00",
        ]  # fmt: skip
        for token in tokens:
            with pytest.raises(errors.Unauthenticated):
                directory.sender(token, NOW)

    def test_of_a_person_is_refused(self, province: Province) -> None:
        claims = {"iss": "https://a.invalid", "aud": "village-mesh", "roles": ["KA"], "region": COUNTY}
        with pytest.raises(errors.Unauthenticated):
            province.directory(PROVINCE).sender(forged(province, **claims), NOW)


def test_the_moment_is_the_caller_s(province: Province) -> None:
    """No wall clock: a test, or a node under examination, sets the time."""
    past = resources.EPOCH + datetime.timedelta(days=400)
    province.publish(past)
    token = province.directory(COUNTY).token(PROVINCE, past)
    assert province.directory(PROVINCE).sender(token, past) == COUNTY
