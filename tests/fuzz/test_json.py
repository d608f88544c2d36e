"""Fuzz (I6) as JSON through the gateway of a whole node: random bodies, URLs and parameters for every method
that has a URL. And files of real size, both ways."""

import hashlib
import http.client
import json
import os
import random
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
from google.api import annotations_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor

from mesh import contract
from tests import samples
from tests.fuzz.test_fuzz import FOUND, TEXTS, scramble
from tests.integration.test_local_node import GOOD, REPORTS, County, mesh
from tests.integration.test_report_files import jpeg

COUNT = int(os.environ.get("VILLAGEMESH_FUZZ", "300")) // 5
AREAS = {
    module.DESCRIPTOR.name.rpartition("/")[2]: [
        method
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if not method.client_streaming
    ]
    for module in contract.modules("village.habitat.v1")
    if module.DESCRIPTOR.services_by_name
}
MOST = 1200
"""Requests to the methods of one file, shared between them."""
WELL = {200, 400, 401, 403, 404, 405, 409, 411, 413, 415, 416, 429, 431}
"""Every status but those of faults: 500 (INTERNAL, UNKNOWN), 501, 502, 503, 504."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[County]:
    found = County(tmp_path_factory.mktemp("json") / "360423")
    assert found.up().returncode == 0
    yield found
    mesh("down", "--data", str(found.data))


def ask(
    connection: http.client.HTTPConnection, method: str, url: str, body: bytes | None, headers: dict[str, str]
) -> tuple[int, bytes]:
    try:
        connection.request(method, url, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (http.client.HTTPException, OSError):  # Envoy closes on what is no HTTP
        connection.close()
        return 400, b""


def url_of(draw: random.Random, template: str, name: str) -> str:
    """A URL by its template, more often right than wrong."""
    for part in ("{name=", "{parent="):
        if part in template:
            start = template.index(part)
            end = template.index("}", start)
            pattern = template[start + len(part) : end]
            good = (
                name
                if pattern.count("/") == 3 and "reports" in pattern
                else pattern.replace("*", "360423", 1)
            )
            good = good.replace("*", draw.choice(["x", "00000000-0000-4000-8000-000000000000", "default"]))
            bad = urllib.parse.quote(draw.choice(TEXTS)[:200], safe="/")
            template = template[:start] + (good if draw.random() < 0.8 else bad) + template[end + 1 :]
    return template.replace("{sha256}", draw.choice(["a" * 64, "x"]))


@pytest.mark.parametrize("area", AREAS)
def test_never_a_fault_whatever_json_comes(node: County, area: str) -> None:
    report = node.ask(REPORTS, token=node.token("CZ"), body=GOOD)[1]["name"]
    connection, wrong = http.client.HTTPConnection("127.0.0.1", node.port, timeout=20), []
    for method in AREAS[area]:
        wrong += tried(node, connection, method, report, max(min(COUNT, MOST // len(AREAS[area])), 10))
    connection.close()
    assert wrong == []


def tried(
    node: County, connection: http.client.HTTPConnection, of: MethodDescriptor, report: str, count: int
) -> list[Any]:
    """What a method answered that is a fault."""
    rule, method = of.GetOptions().Extensions[annotations_pb2.http], FOUND.methods[of.name]
    draw, template, wrong = random.Random(of.name), samples.http_path(of), []
    verb = "GET" if rule.get else "PATCH" if rule.patch else "POST"
    allowed = sorted({role for rule in method.rules for role in rule.roles} or {"CZ"})
    token = node.token(draw.choice(allowed))
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    for n in range(count):
        request = method.request()
        scramble(draw, request)
        try:
            made: Any = json_format.MessageToDict(request)
        except (ValueError, TypeError, json_format.Error):  # a time that JSON cannot say
            made = {draw.choice(["parent", "name", "filter", "report"]): draw.choice(TEXTS)}
        body = json.dumps(made)
        if n % 3 == 1:
            body = body[: draw.randint(0, len(body))] + draw.choice(["", "{", "\x00", "]}", '"'])
        elif n % 3 == 2:
            body = json.dumps(draw.choice([None, [], 1, "x", {"a": {"b": [made] * 3}}, [[[[[[[]]]]]]]]))
        url = url_of(draw, template, report)
        if verb == "GET":
            few = {k: str(v)[:300] for k, v in made.items() if isinstance(v, str | int | bool)}
            url += f"?{urllib.parse.urlencode(few)}"
        status, answer = ask(connection, verb, url, None if verb == "GET" else body.encode(), headers)
        if status not in WELL:
            wrong.append((status, verb, url, body[:200], answer[:300]))
    return wrong


def test_large_files_go_up_and_down(node: County) -> None:
    resident = node.token("CZ")
    raw = jpeg(6)[:-2] + b"\x11" * (15 * 1024 * 1024) + b"\xff\xd9"
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=60)
    headers = {"authorization": f"Bearer {resident}", "content-type": "image/jpeg"}
    status, answer = ask(connection, "POST", "/habitat/v1/regions/360423/attachments", raw, headers)
    assert status == 200, answer
    kept = json.loads(answer)
    assert int(kept["sizeBytes"]) > 15_000_000
    filed = node.ask(REPORTS, token=resident, body={**GOOD, "photos": [kept]})[1]
    url = f"/habitat/v1/{filed['name']}/photos/{kept['sha256']}"
    status, answer = ask(connection, "GET", url, None, headers)
    assert status == 200
    assert hashlib.sha256(answer).hexdigest() == kept["sha256"]
    other = {"authorization": f"Bearer {node.token('AU')}"}
    assert ask(connection, "GET", url, None, other)[0] == 403
    program = b"MZ" + bytes(99)
    status, answer = ask(connection, "POST", "/habitat/v1/regions/360423/attachments", program, headers)
    assert (status, b"UNSUPPORTED_CONTENT" in answer) == (400, True)
    connection.close()
