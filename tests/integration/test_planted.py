"""Values planted in a whole node (I7), in fields, texts, a photo, a file's name, and looked for in everything
that it writes and says: databases, write-ahead logs, the broker's store, logs, answers, the bundle for
whoever helps."""

import io
import json
import pathlib
import tarfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.test_local_node import REPORTS, County, mesh
from tests.integration.test_report_files import jpeg

PLACE = b"Canon-7741"
PLANTED = [
    "欧阳柿树",
    "13877417741",
    "三号院七七四一",
    "resident-7741-secret",
    "reason-7741",
    "name-7741.jpg",
]
REPORT: dict[str, Any] = {
    "category": "CATEGORY_WASTE", "description": "三号院七七四一的垃圾", "division": "360423100201",
    "location": {"latitude": 29.26, "longitude": 115.09},
    "contact": {"personName": "欧阳柿树", "phone": "13877417741"},
}  # fmt: skip


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[County]:
    found = County(tmp_path_factory.mktemp("planted") / "360423")
    assert found.up().returncode == 0
    resident = mesh("token", "--data", str(found.data), "--subject", "resident-7741-secret", "--role", "CZ",
                    "--region", "360423").stdout.strip()  # fmt: skip
    officer = found.token("KA")
    url = f"http://127.0.0.1:{found.port}/habitat/v1/regions/360423/attachments"
    request = urllib.request.Request(url, jpeg(), {
        "authorization": f"Bearer {resident}", "content-type": "image/jpeg",
        "content-disposition": 'attachment; filename="name-7741.jpg"',
    })  # fmt: skip
    kept = json.load(urllib.request.urlopen(request, timeout=20))
    status, filed = found.ask(REPORTS, token=resident, body={**REPORT, "photos": [kept]})
    assert status == 200
    name = filed["name"]
    assert found.ask(f"/habitat/v1/{name}:reject", token=officer, body={"reason": "reason-7741"})[0] == 200
    refused = [
        {**REPORT, "contact": {"phone": "1387741774100"}}, {**REPORT, "division": "三号院七七四一"},
    ]  # fmt: skip
    for body in refused:
        assert found.ask(REPORTS, token=resident, body=body)[0] == 400
    asked = urllib.parse.quote('description = "三号院七七四一"')
    assert found.ask(f"{REPORTS}?filter={asked}", token=officer)[0] == 400
    found.name = name  # type: ignore[attr-defined]
    yield found
    mesh("down", "--data", str(found.data))


def leaks(raw: bytes) -> list[str]:
    forms = {p: (p.encode(), p.encode("utf-16-le"), json.dumps(p)[1:-1].encode()) for p in PLANTED}
    return [p for p, ways in forms.items() if any(way in raw for way in ways)] + (
        ["EXIF"] if PLACE in raw else []
    )


def test_nothing_that_the_node_writes_holds_one(node: County) -> None:
    looked = set()
    for path in node.data.rglob("*"):
        if path.is_file():
            looked.add(path.suffix or path.name)
            assert leaks(path.read_bytes()) == [], path
    assert {".db", ".db-wal", ".blk", ".log"} <= looked, "the node's own files were looked at"


def test_answers_of_others_hold_none_but_the_text_for_who_handles_it(node: County) -> None:
    name = node.name  # type: ignore[attr-defined]
    seen = json.dumps(node.ask(f"/habitat/v1/{name}", token=node.token("KA"))[1], ensure_ascii=False)
    assert leaks(seen.encode()) == ["三号院七七四一"]
    refused = json.dumps(node.ask(f"/habitat/v1/{name}", token=node.token("CZ"))[1], ensure_ascii=False)
    assert leaks(refused.encode()) == []


def test_the_bundle_for_who_helps_holds_none_and_no_secret(node: County, tmp_path: pathlib.Path) -> None:
    to = tmp_path / "bundle.tar.gz"
    said = mesh("doctor", "--data", str(node.data), "--bundle", str(to))
    assert "without secrets or personal data" in said.stdout
    words = json.loads((node.data / "secrets/nats.json").read_text()).values()
    with tarfile.open(to) as tar:
        names = tar.getnames()
        for name in names:
            member = tar.extractfile(name)
            assert member is not None
            raw = io.BytesIO(member.read()).getvalue()
            assert leaks(raw) == [], name
            assert not [word for word in words if word.encode() in raw], name
    assert {"doctor.txt", "logs/services.log", "logs/access.log"} <= set(names)
