"""Fuzz (I6) of how nodes join: a stranger reaches it without a token, and a node that has joined may be
anybody's. Never a fault, and never a directory that the others cannot use."""

import datetime
import json
import pathlib
import random
from collections.abc import Iterator

import pytest

from gateway import authority
from mesh import errors
from tests.fuzz.test_fuzz import COUNT, changed, scramble
from tests.province import COUNTY, PROVINCE, SIBLING, Office
from village.mesh.v1 import contract_pb2, directory_pb2, enrolment_pb2, handover_pb2

PARENT = f"regions/{PROVINCE}"
KEY = authority.new_key()


@pytest.fixture
def office(tmp_path: pathlib.Path) -> Iterator[Office]:
    found = Office(tmp_path / "360000")
    yield found
    found.close()


@pytest.fixture
def joined(office: Office) -> Office:
    """With a county that has joined."""
    office.call(office.joining(COUNTY, office.invite(COUNTY, "habitat"), KEY), {})
    office.renew()
    return office


HANDOVER = f"{PARENT}/handovers/019a0000-0000-7000-8000-000000000000"
REQUESTS = {
    "GetNode": directory_pb2.GetNodeRequest(),
    "GetAuthority": directory_pb2.GetAuthorityRequest(),
    "GetOpenapiDocument": contract_pb2.GetOpenapiDocumentRequest(domain="habitat"),
    "GetAsyncapiDocument": contract_pb2.GetAsyncapiDocumentRequest(domain="habitat"),
    "GetDocumentPage": contract_pb2.GetDocumentPageRequest(domain="habitat", file="swagger-ui.css"),
    "InviteNode": enrolment_pb2.InviteNodeRequest(parent=PARENT, invitation={"about_region": SIBLING}),
    "EnrolNode": enrolment_pb2.EnrolNodeRequest(
        parent=PARENT, region=SIBLING, code="x", signing_request=authority.signing_request(KEY, SIBLING),
        issuers='[{"issuer": "https://a.invalid", "jwks": {"keys": []}}]', software="1",
    ),
    "RenewBundle": enrolment_pb2.RenewBundleRequest(
        parent=PARENT, version=1, issuers='[{"issuer": "https://a.invalid", "jwks": {"keys": []}}]'
    ),
    "RevokeNode": enrolment_pb2.RevokeNodeRequest(name=f"{PARENT}/enrolments/{SIBLING}"),
    "GrantDomain": enrolment_pb2.GrantDomainRequest(
        parent=PARENT, grant={"about_region": COUNTY, "domain": "culture", "node": COUNTY}
    ),
    "ListEnrolments": enrolment_pb2.ListEnrolmentsRequest(parent=PARENT),
    "ListGrants": enrolment_pb2.ListGrantsRequest(parent=PARENT),
    "HandOverDomain": handover_pb2.HandOverDomainRequest(
        parent=PARENT, handover={"about_region": COUNTY, "domain": "habitat", "receiver": PARENT[8:]}
    ),
    "TakeOverDomain": handover_pb2.TakeOverDomainRequest(
        parent=PARENT,
        handover={"about_region": COUNTY, "domain": "habitat", "receiver": COUNTY, "reason": "x"},
    ),
    "ApproveTakeover": handover_pb2.ApproveTakeoverRequest(name=HANDOVER),
    "RevertHandover": handover_pb2.RevertHandoverRequest(name=HANDOVER),
    "GetHandover": handover_pb2.GetHandoverRequest(name=HANDOVER),
    "ListHandovers": handover_pb2.ListHandoversRequest(parent=PARENT),
    "ReconcileCopy": directory_pb2.ReconcileCopyRequest(
        parent=PARENT, about_region=COUNTY, domain="habitat"
    ),
}  # fmt: skip
ISSUERS = [
    "", "{", "[", "[" * 90_000, '{"a":' * 9_000, "null", "1", '"x"', "{}", "[1]", "[[]]", "[{}]",
    '[{"issuer": 1}]', '[{"issuer": "a"}]', '[{"issuer": null, "jwks": null}]',
    f'[{{"issuer": "a", "jwks": {"[" * 900}{"]" * 900}}}]', '[{"issuer": "\\ud800", "jwks": {}}]',
    '[{"issuer": "a", "jwks": "\\udfff"}]', '[{"issuer": "a\\u0000", "jwks": 1}]',
    '[{"issuer": "", "jwks": {"keys": []}}]', '[{"issuer": "a", "jwks": NaN}]',
    '[{"issuer": "a", "jwks": 1e999}]', '[{"issuer": "a", "jwks": {"keys": [1]}}]',
    f'[{{"issuer": "{"a" * 301}", "jwks": {{}}}}]',
    '[{"issuer": "a", "jwks": {"keys": [{"kty": "EC"}]}, "region": "110000", "highest_level": "PROVINCE"}]',
]  # fmt: skip


def refusal(office: Office, name: str, raw: bytes, headers: dict[str, str]) -> errors.Refusal | None:
    try:
        office.raw(name, raw, headers)
    except errors.Refusal as refused:
        return refused
    return None


def test_every_method_has_a_request(office: Office) -> None:
    assert set(REQUESTS) == set(office.methods)


@pytest.mark.parametrize("name", REQUESTS)
def test_never_a_fault_whatever_comes(joined: Office, name: str) -> None:
    draw, good, callers = random.Random(name), REQUESTS[name], {
        "stranger": {}, "administrator": joined.administrator(),
        "node": joined.as_node(COUNTY, KEY, joined._issuer / "node"),
    }  # fmt: skip
    answered = set()
    for n in range(COUNT):
        if n % 3 == 0:
            raw = draw.randbytes(draw.choice([0, 1, 7, 60, 900]))
        elif n % 3 == 1:
            raw = changed(draw, good.SerializeToString())
        else:
            request = type(good)()
            request.CopyFrom(good)
            scramble(draw, request)
            raw = request.SerializeToString()
        who = draw.choice(list(callers))
        refused = refusal(joined, name, raw, callers[who])
        assert not isinstance(refused, errors.Internal), (who, raw.hex())
        if refused is None:
            answered.add(who)
    if "stranger" in answered:
        assert name in ("GetNode", "GetAuthority") or "Document" in name
    view = joined.renew()
    assert COUNTY in view.nodes


@pytest.mark.parametrize("text", ISSUERS, ids=range(len(ISSUERS)))
def test_whatever_a_node_vouches_for_leaves_the_directory_usable(joined: Office, text: str) -> None:
    key, code = authority.new_key(), joined.invite(SIBLING)
    for request, headers in (
        (joined.joining(SIBLING, code, key, issuers=text), {}),
        (enrolment_pb2.RenewBundleRequest(parent=PARENT, issuers=text),
         joined.as_node(COUNTY, KEY, joined._issuer / "node")),
    ):  # fmt: skip
        method = next(m for m in joined.methods.values() if m.request is type(request))
        refused = refusal(joined, method.name, request.SerializeToString(), headers)
        assert refused is None or (refused.reason, refused.metadata["field"]) == ("INVALID", "issuers")
    before = joined.directory.view.version
    view = joined.renew()
    assert view.version >= before
    assert {COUNTY, PROVINCE} <= set(view.nodes)
    for entry in view.issuers:
        assert (entry.region, entry.highest_level) in (
            (PROVINCE, "PROVINCE"),
            (COUNTY, "COUNTY"),
            (SIBLING, "COUNTY"),
        )
        assert entry.issuer
    listing = enrolment_pb2.ListEnrolmentsRequest(parent=PARENT)
    joined.chain.callers._issuers._looked = 0.0  # the keys in the new directory are read, whatever they are
    assert joined.call(listing, joined.administrator()).enrolments


def test_nobody_speaks_for_another_s_issuer(joined: Office) -> None:
    """A node that vouches for an issuer which the province or an earlier node vouches for is refused."""
    node = joined.as_node(COUNTY, KEY, joined._issuer / "node")
    mine = json.dumps([{"issuer": "https://mine.invalid", "jwks": {"keys": []}}])
    joined.call(enrolment_pb2.RenewBundleRequest(parent=PARENT, issuers=mine), node)
    view = joined.renew()
    theirs = [{"issuer": e.issuer, "jwks": {"keys": [1]}} for e in view.issuers]
    assert len(theirs) == 2
    joined.now += datetime.timedelta(seconds=1)
    code = joined.invite("360402")  # sorts before the county
    for one in theirs:
        with pytest.raises(errors.Invalid, match="another node vouches"):
            joined.call(joined.joining("360402", code, authority.new_key(), issuers=json.dumps([one])), {})
    assert joined.renew().issuers == view.issuers


class TestCode:
    def test_counts_once(self, office: Office) -> None:
        code = office.invite(COUNTY)
        office.call(office.joining(COUNTY, code, KEY), {})
        with pytest.raises(errors.Refusal) as refused:
            office.call(office.joining(COUNTY, code, KEY), {})
        assert refused.value.reason == "INVITATION_NOT_VALID"

    def test_counts_for_its_region_and_a_week_only(self, office: Office) -> None:
        code = office.invite(COUNTY)
        for region, text in ((SIBLING, code), (COUNTY, code[1:]), (COUNTY, "x"), (COUNTY, ".")):
            with pytest.raises(errors.Refusal) as refused:
                office.call(office.joining(region, text, KEY), {})
            assert refused.value.reason == "INVITATION_NOT_VALID"
        office.now += datetime.timedelta(days=7, seconds=1)
        with pytest.raises(errors.Refusal) as refused:
            office.call(office.joining(COUNTY, code, KEY), {})
        assert refused.value.reason == "INVITATION_NOT_VALID"

    def test_is_not_kept(self, office: Office, tmp_path: pathlib.Path) -> None:
        code = office.invite(COUNTY).partition(".")[0]
        raw = b"".join(path.read_bytes() for path in (tmp_path / "360000").glob("mesh.db*"))
        assert raw
        assert code.encode() not in raw
