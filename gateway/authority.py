"""The province's authority for nodes: its key, certificates of nodes, and the signed bundle. Separate from
the handlers, which decide who joins; this only signs."""

import datetime
import hashlib
import hmac
import ipaddress
import os
import pathlib

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh import errors, regions, resources, trust
from village.mesh.v1 import bundle_pb2

YEARS = datetime.timedelta(days=3653)
EARLIER = datetime.timedelta(hours=24)
"""Certificates count from a day ago, because clocks differ."""


def server_name(region: str) -> str:
    """The name in a node's certificate; it says which node it is, wherever the node is reached."""
    return f"{region}.node.village.invalid"


def new_key() -> bytes:
    """A P-256 key, PEM."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_key(key: bytes) -> str:
    """The public half of a key, PEM."""
    return _pem(_load(key).public_key())


def self_signed(key: bytes, region: str, now: datetime.datetime) -> bytes:
    """The authority's own certificate, PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Village Mesh authority {region}")])
    private = _load(key)
    certificate = (
        _builder(name, name, private.public_key(), now, YEARS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def signing_request(key: bytes, region: str) -> str:
    """What a node sends to get a certificate (PKCS #10, PEM)."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, server_name(region))])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(_load(key), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def requested_key(signing_request_: str) -> str:
    """The public key in a signing request, PEM. Invalid when it is not one that proves its P-256 key."""
    try:
        request = x509.load_pem_x509_csr(signing_request_.encode())
        key = request.public_key()
        good = request.is_signature_valid and isinstance(key, ec.EllipticCurvePublicKey)
        good = good and isinstance(key.curve, ec.SECP256R1)  # type: ignore[union-attr]
    except (ValueError, TypeError, UnsupportedAlgorithm) as fault:
        raise errors.Invalid("signing_request", "is not a signing request (PKCS #10, PEM)") from fault
    if not good:
        raise errors.Invalid("signing_request", "is not signed by the P-256 key that it names")
    return _pem(key)


class Authority:
    """The authority, opened from its files."""

    def __init__(self, key: pathlib.Path, certificate: pathlib.Path) -> None:
        self._raw = key.read_bytes()
        self._key = _load(self._raw)
        self.certificate = certificate.read_bytes()
        self._issuer = x509.load_pem_x509_certificate(self.certificate).subject

    def fingerprint(self) -> str:
        """SHA-256 of the authority's certificate as it is sent, the first 32 hexadecimal digits."""
        return hashlib.sha256(self.certificate).hexdigest()[:32]

    def certify(self, public: str, region: str, now: datetime.datetime) -> str:
        """A certificate for a node's public key, PEM, good for as long as a bundle."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, server_name(region))])
        names: list[x509.GeneralName] = [x509.DNSName(server_name(region)), x509.DNSName("localhost"),
                                         x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]  # fmt: skip
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        key = serialization.load_pem_public_key(public.encode())
        certificate = (
            _builder(name, self._issuer, key, now, trust.LIFE)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def sign(self, content: bundle_pb2.BundleContent, now: datetime.datetime) -> bundle_pb2.Bundle:
        """A bundle of that content, dated now."""
        content.issue_time.CopyFrom(resources.stamp(now))
        content.expire_time.CopyFrom(resources.stamp(now + trust.LIFE))
        raw = content.SerializeToString(deterministic=True)
        return bundle_pb2.Bundle(content=raw, signature=self._key.sign(raw, trust.ECDSA))

    def password(self, region: str, enrolled: datetime.datetime) -> str:
        """The password of a node's line to the broker; another one each time the node joins."""
        text = f"broker/{region}/{enrolled.isoformat()}"
        return hmac.new(self._raw, text.encode(), hashlib.sha256).hexdigest()


def leaf_user(region: str, password: str) -> dict[str, object]:
    """A node's user at the province's broker: it hears the calls for itself and what is announced to all,
    and may say nothing but its answers and how far its own logs are."""
    place = regions.tokens(region)
    return {
        "user": f"node-{region}",
        "password": password,
        "allowed_connection_types": ["LEAFNODE", "WEBSOCKET", "LEAFNODE_WS"],
        "permissions": {
            "publish": [f"village.answer.{place}.>", f"village.mark.{place}.>"],
            "subscribe": [f"village.call.{place}.>", "village.directory"],
        },
    }


def write(path: pathlib.Path, raw: bytes, mode: int = 0o600) -> None:
    """Writes a file so that a reader sees the old one or the new one, and a crash leaves one of them."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: object, now: datetime.datetime, life: datetime.timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + life)
    )


def _load(key: bytes) -> ec.EllipticCurvePrivateKey:
    found = serialization.load_pem_private_key(key, None)
    assert isinstance(found, ec.EllipticCurvePrivateKey)
    return found


def _pem(key: object) -> str:
    return key.public_bytes(  # type: ignore[attr-defined,no-any-return]
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()
