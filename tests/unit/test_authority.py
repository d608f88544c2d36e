"""What the province's authority signs, and what it refuses to sign."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from gateway import authority
from mesh import errors, trust
from tests.province import COUNTY, NOW, PROVINCE, Province

NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])


def request_of(key: object, algorithm: hashes.HashAlgorithm | None) -> str:
    made = x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(key, algorithm)  # type: ignore[arg-type]
    return made.public_bytes(serialization.Encoding.PEM).decode()


def altered(pem: str, old: bytes, new: bytes) -> str:
    """A signing request with some of its bytes replaced."""
    der = x509.load_pem_x509_csr(pem.encode()).public_bytes(serialization.Encoding.DER)
    assert old in der
    assert len(old) == len(new)
    body = serialization_base64(der.replace(old, new))
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n"


def serialization_base64(raw: bytes) -> str:
    import base64

    return base64.encodebytes(raw).decode().strip()


GOOD = authority.signing_request(authority.new_key(), COUNTY)
P256, ECDSA_SHA256 = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d040302")
EC_KEY = bytes.fromhex("06072a8648ce3d0201")


class TestSigningRequest:
    def test_gives_the_key_that_it_proves(self) -> None:
        key = authority.new_key()
        assert authority.requested_key(authority.signing_request(key, COUNTY)) == authority.public_key(key)

    @pytest.mark.parametrize(
        "text",
        [
            "", "x", "-----BEGIN CERTIFICATE REQUEST-----", GOOD[:200], GOOD.replace("REQUEST", "REQUESTS"),
            GOOD[:100] + "é字\x00" + GOOD[100:], "\U0010ffff",
            altered(GOOD, P256, bytes.fromhex("06082a8648ce3d030177")),  # a curve that nobody knows
            altered(GOOD, EC_KEY, bytes.fromhex("06072a8648ce3d0277")),  # a kind of key that nobody knows
            altered(GOOD, ECDSA_SHA256, bytes.fromhex("06082a8648ce3d040377")),  # a signature nobody knows
            request_of(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()),
            request_of(ec.generate_private_key(ec.SECP256K1()), hashes.SHA256()),
            request_of(rsa.generate_private_key(65537, 2048), hashes.SHA256()),
            request_of(ed25519.Ed25519PrivateKey.generate(), None),
            authority.new_key().decode(), authority.public_key(authority.new_key()),
        ],
    )  # fmt: skip
    def test_of_another_kind_of_key_or_garbage_is_refused_by_name(self, text: str) -> None:
        with pytest.raises(errors.Invalid) as refused:
            authority.requested_key(text)
        assert refused.value.metadata["field"] == "signing_request"

    def test_that_another_key_signed_is_refused_by_name(self) -> None:
        point = authority.public_key(authority.new_key())
        mine = serialization.load_pem_public_key(point.encode())
        theirs = x509.load_pem_x509_csr(GOOD.encode()).public_key()
        kind, form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        swapped = altered(GOOD, theirs.public_bytes(kind, form), mine.public_bytes(kind, form))
        with pytest.raises(errors.Invalid) as refused:
            authority.requested_key(swapped)
        assert refused.value.metadata["field"] == "signing_request"


class TestCertificate:
    def test_names_its_node_and_lasts_as_long_as_a_bundle(self, tmp_path: object) -> None:
        province = Province(tmp_path)  # type: ignore[arg-type]
        public = authority.public_key(authority.new_key())
        text = province.authority.certify(public, COUNTY, NOW)
        found = x509.load_pem_x509_certificate(text.encode())
        found.verify_directly_issued_by(x509.load_pem_x509_certificate(province.authority.certificate))
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert authority.server_name(COUNTY) in names.get_values_for_type(x509.DNSName)
        assert found.not_valid_after_utc == NOW + trust.LIFE
        assert found.not_valid_before_utc == NOW - datetime.timedelta(days=1), "clocks differ"
        assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


class TestLine:
    def test_has_another_password_each_time_a_node_joins(self, tmp_path: object) -> None:
        its = Province(tmp_path).authority  # type: ignore[arg-type]
        again = NOW + datetime.timedelta(seconds=1)
        words = {its.password(r, t) for r in (COUNTY, "360424") for t in (NOW, again)}
        assert len(words) == 4
        assert its.password(COUNTY, NOW) in words

    def test_lets_a_node_speak_for_itself_only(self) -> None:
        user = authority.leaf_user(COUNTY, "x")
        allowed = user["permissions"]
        assert isinstance(allowed, dict)
        assert all(".36.04.23." in subject for subject in allowed["publish"])
        assert allowed["subscribe"] == ["village.call.36.04.23.>", "village.directory"]
        assert PROVINCE not in str(user)
