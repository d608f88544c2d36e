"""Joins the node of a directory to its province: makes its key, proves the province by the fingerprint in
the code, and keeps what the province answers. Separate from preparing a node, because it is done once."""

import hashlib
import http.client
import json
import pathlib
import socket
import ssl
import urllib.parse
from typing import Any

from google.protobuf import json_format

from deploy.local import directory
from gateway import VERSION, authority, bundles
from gateway.node import keep
from mesh import trust
from village.mesh.v1 import enrolment_pb2

TIMEOUT_S = 30.0


class NotJoined(directory.BadNode):
    """The node could not join; the text says why."""


def join(data: pathlib.Path, region: str, url: str, code: str, issuers: pathlib.Path) -> None:
    """Joins, unless that was done. NotJoined with the reason; nothing is kept then but the node's key."""
    address = _address(url)
    if (known := directory.line(data)) and (known["address"] == address or not code):
        return
    if not code:
        raise NotJoined(f"{data} has not joined {url}: --invite with a code is needed")
    secret, _, fingerprint = code.strip().partition(".")
    unproven = ssl._create_unverified_context()  # noqa: S323 - what it brings is compared with the code
    found = _ask(address, unproven, "GET", "/mesh/v1/authority")
    certificate = str(found["certificate"]).encode()
    if hashlib.sha256(certificate).hexdigest()[:32] != fingerprint:
        raise NotJoined(f"{url} is not the province that the code is of")
    directory.create(data / directory.NODE_KEY, authority.new_key().decode())
    province, key = str(found["region"]), (data / directory.NODE_KEY).read_bytes()
    body = {
        "region": region,
        "code": secret,
        "signingRequest": authority.signing_request(key, region),
        "issuers": json.dumps(bundles.vouching(issuers)),
        "software": VERSION,
    }
    proven = ssl.create_default_context(cadata=certificate.decode())
    path = f"/mesh/v1/regions/{province}/enrolments"
    raw = _ask(address, proven, "POST", path, name=authority.server_name(province), body=body)
    answer = json_format.ParseDict(raw, enrolment_pb2.EnrolNodeResponse(), ignore_unknown_fields=True)
    directory.replace(data / "trust" / trust.AUTHORITY, certificate.decode())
    keep(data / "trust", answer.certificate, answer.bundle)
    line = {
        "province": province, "address": address, "user": answer.broker_user,
        "password": answer.broker_password,
    }  # fmt: skip
    directory.replace(
        data / directory.LINE, json.dumps(line)
    )  # last: from now on the node belongs to the mesh


def _address(url: str) -> str:
    parts = urllib.parse.urlsplit(url if "://" in url else f"https://{url}")
    if parts.scheme != "https" or not parts.hostname:
        raise NotJoined(f"{url!r} is not the address of a province's office, as in https://HOST:PORT")
    return f"{parts.hostname}:{parts.port or 443}"


def _ask(
    address: str,
    context: ssl.SSLContext,
    method: str,
    path: str,
    *,
    name: str = "",
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPSConnection(host, int(port), timeout=TIMEOUT_S, context=context)
    try:
        plain = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
        connection.sock = context.wrap_socket(plain, server_hostname=name or host)
        headers = {"content-type": "application/json"}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
        if response.status != 200:
            raise NotJoined(f"the province refuses: {_why(text)}")
        return dict(json.loads(text))
    except (OSError, http.client.HTTPException, ValueError) as fault:
        raise NotJoined(f"the province at {address} does not answer: {fault}") from fault
    finally:
        connection.close()


def _why(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:300]
