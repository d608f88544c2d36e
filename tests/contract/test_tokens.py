"""Tokens and their issuers (I5): what is wrong with one is said, and never a fault of ours."""

import base64
import hmac
import json
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from mesh import errors, statuses
from tests.contract.test_access import look_again, outcome, write_issuers
from tests.county import REGION, County, issuer, mint
from tests.loop import file, written
from village.habitat.v1 import report_pb2 as pb

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""These questions are decided before the database."""


def _segment(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _bad_tokens(county: County) -> Iterator[tuple[str, str, str]]:
    """(what is wrong, token, a word of the reason given)"""
    now, private = county.now, county.private
    stamp = int(now.timestamp())

    def good(**claims: Any) -> str:
        return mint(private, now, **claims)

    head, body, signature = good().split(".")
    yield "expired", good(exp=stamp - 31), "expired"
    yield "not yet valid", good(nbf=stamp + 31), "not valid yet"
    yield "issued in the future", good(iat=stamp + 31), "not valid yet"
    yield "wrong audience", good(aud="somebody-else"), "udience"
    yield "no audience", good(aud=None), "aud"
    for claim in ("exp", "iat", "sub", "iss"):
        yield f"no {claim}", good(**{claim: None}), ""
    yield "another's signature", mint(ed25519.Ed25519PrivateKey.generate(), now), "ignature"
    yield (
        "altered",
        f"{head}.{_segment(base64.urlsafe_b64decode(body + '==') + b' ')}.{signature}",
        "ignature",
    )
    yield "no signature", f"{head}.{body}.", ""
    none = _segment(b'{"alg":"none","typ":"JWT","kid":"d1"}')
    yield "alg none", f"{none}.{body}.", "alg"
    public = (county.folder / "trust/jwks.json").read_bytes()
    hs_head = _segment(b'{"alg":"HS256","typ":"JWT","kid":"d1"}')
    signed = f"{hs_head}.{body}"
    hs = f"{signed}.{_segment(hmac.digest(public, signed.encode(), 'sha256'))}"
    yield "HMAC with the public key", hs, "alg"
    yield "unknown issuer", good(iss="https://elsewhere.invalid"), "issuer"
    yield "unknown key", jwt.encode({"iss": issuer(REGION)}, private, "EdDSA", {"kid": "d2"}), "key"
    yield "no key id", jwt.encode({"iss": issuer(REGION)}, private, "EdDSA"), "key"
    yield "region outside the issuer's", good(region="360424"), "vouch"
    yield "region above the issuer's", good(region="360400"), "vouch"
    yield "role above the issuer's", good(roles=["PA"]), "level"
    yield "one role above the issuer's", good(roles=["KA", "CI"]), "level"
    yield "unknown role", good(roles=["KING"]), "roles"
    yield "a role of the mesh itself", good(roles=["SYS"]), "roles"
    yield "no roles", good(roles=[]), "roles"
    yield "no region", good(region=None), "region"
    yield "a region that is none", good(region="36042"), "region"
    yield "a region in other digits", good(region="3６0423"), "region"
    yield "an empty subject", good(sub=""), ""
    yield "a subject that is the mesh's own", good(sub="system"), ""
    yield "a subject that is a number", good(sub=7), ""
    for claim, value in (("exp", "x"), ("iat", "x"), ("nbf", "x"), ("roles", 5), ("roles", "KA")):
        yield f"{claim} that is {value!r}", good(**{claim: value}), ""
    for i, text in enumerate(
        ("x", "a.b.c", "..", ".", "é.é.é", "\x00", "a" * 8_000, f"{head}.{_segment(b'[' * 3000)}.{signature}",
         f"{_segment(b'[' * 3000)}.{body}.{signature}", f"{head}.{_segment(b'[1]')}.{signature}",
         f"{_segment(b'5')}.{body}.{signature}", f"{head}.{_segment(b'{}')}.{signature}",
         f'{_segment(b"""{"alg":["EdDSA"],"kid":["d1"]}""")}.{body}.{signature}')
    ):  # fmt: skip
        yield f"garbage {i}", text, ""


class TestToken:
    def test_is_refused_with_its_reason_and_never_a_fault(self, county: County) -> None:
        name = file(county).name
        request, before, wrong = pb.GetReportRequest(name=name), written(county), []
        for what, token, word in _bad_tokens(county):
            try:
                county.raw("GetReport", request.SerializeToString(), {"authorization": f"Bearer {token}"})
                wrong.append((what, "accepted"))
            except errors.Refusal as refusal:
                status = statuses.status(refusal)
                if status.code != errors.UNAUTHENTICATED or not str(refusal) or word not in str(refusal):
                    wrong.append((what, f"{refusal.reason}: {refusal}"))
        assert wrong == []
        assert written(county) == before

    def test_is_refused_in_any_other_scheme(self, county: County) -> None:
        request, token = pb.GetReportRequest(name=file(county).name), county.token("county")
        for header in ("Bearer", "Bearer ", f"Basic {token}", token, f"Bearer {token} {token}", "\x00"):
            got = outcome(county, "GetReport", request, {"authorization": header})
            assert got == "UNAUTHENTICATED", header
        assert outcome(county, "GetReport", request, {"authorization": f"bearer {token}"}) == "OK"

    def test_is_good_within_the_error_of_a_clock(self, county: County) -> None:
        stamp = int(county.now.timestamp())
        request = pb.GetReportRequest(name=file(county).name)
        for claims in ({"exp": stamp - 29}, {"nbf": stamp + 29, "iat": stamp + 29}):
            assert county.call("county", request, **claims).name

    def test_is_looked_at_again_when_its_time_has_passed(self, county: County) -> None:
        request, token = pb.GetReportRequest(name=file(county).name), county.token("county")
        headers = {"authorization": f"Bearer {token}"}
        assert outcome(county, "GetReport", request, headers) == "OK"
        county.pass_time(hours=1, seconds=31)
        assert outcome(county, "GetReport", request, headers) == "UNAUTHENTICATED"

    def test_counts_each_of_several_roles(self, county: County) -> None:
        report = file(county)
        assert county.call("resident", pb.GetReportRequest(name=report.name), roles=["LAB", "CZ"]).name
        with pytest.raises(errors.Forbidden):
            county.call("county", pb.GetReportRequest(name=report.name), roles=["LAB", "EN"])


class TestIssuers:
    """The file of issuers and keys is read again when it changes."""

    def test_are_forgotten_when_they_are_taken_out(self, county: County) -> None:
        request = pb.GetReportRequest(name=file(county).name)
        headers = {"authorization": f"Bearer {county.token('county')}"}
        assert outcome(county, "GetReport", request, headers) == "OK"
        kept = (county.folder / "trust/issuers.json").read_text()
        write_issuers(county, [])
        assert outcome(county, "GetReport", request, headers) == "UNAUTHENTICATED"
        (county.folder / "trust/issuers.json").write_text(kept)
        look_again(county)
        assert outcome(county, "GetReport", request, headers) == "OK"

    def test_may_change_their_keys(self, county: County) -> None:
        request, old = pb.GetReportRequest(name=file(county).name), county.private
        assert county.call("county", request).name
        county.private = ed25519.Ed25519PrivateKey.generate()
        public = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(county.private.public_key()))
        keys = {"keys": [{**public, "kid": "d1", "alg": "EdDSA", "use": "sig"}]}
        (county.folder / "trust/jwks.json").write_text(json.dumps(keys))
        look_again(county)
        assert county.call("county", request).name
        headers = {"authorization": f"Bearer {mint(old, county.now)}"}
        assert outcome(county, "GetReport", request, headers) == "UNAUTHENTICATED"

    @pytest.mark.parametrize(
        "broken", ["{", "", "[]", '{"issuers": [{}]}', '{"issuers": [{"jwks": "none"}]}']
    )
    def test_stay_as_they_were_while_the_file_cannot_be_read(self, county: County, broken: str) -> None:
        request = pb.GetReportRequest(name=file(county).name)
        assert county.call("county", request).name
        (county.folder / "trust/issuers.json").write_text(broken)
        look_again(county)
        assert county.call("county", request).name
