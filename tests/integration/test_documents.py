"""The documents as a node serves them: read by people offline, by the reference parser, and by a tool that
sends what they allow and looks whether the answers are in them."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from gateway import contracts
from tests.integration.test_local_node import County, mesh

HERE = pathlib.Path(__file__).parent
COUNT = max(int(os.environ.get("VILLAGEMESH_FUZZ", "0")) // 1000, 1)
"""Requests for each method."""
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[County]:
    found = County(tmp_path_factory.mktemp("documents") / "360423")
    started = found.up("--calls-per-second", "100000", "--calls-per-caller", "100000")
    assert started.returncode == 0, started.stderr
    yield found
    mesh("down", "--data", str(found.data))


def get(node: County, path: str) -> tuple[int, str, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.port}{path}", timeout=20) as answer:
            return answer.status, answer.headers["content-type"], answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.headers["content-type"], refused.read()


class TestServed:
    @pytest.mark.parametrize("kind", ["openapi", "asyncapi"])
    def test_to_anybody_who_asks(self, node: County, kind: str) -> None:
        status, content_type, body = get(node, f"/habitat/v1/{kind}.json")
        assert (status, content_type) == (200, "application/json")
        assert body == (contracts.GENERATED / f"documents/habitat.{kind}.json").read_bytes()

    @pytest.mark.parametrize("path", ["openapi.json", "asyncapi.json", "docs", "docs/swagger-ui.css"])
    def test_not_of_what_there_is_not(self, node: County, path: str) -> None:
        status, _, body = get(node, f"/astronomy/v1/{path}")
        assert (status, json.loads(body)["details"][0]["reason"]) == (404, "NOT_FOUND")

    def test_as_a_page_that_asks_no_other_host(self, node: County) -> None:
        status, content_type, page = get(node, "/habitat/v1/docs")
        assert (status, content_type) == (200, "text/html; charset=utf-8")
        assert b"//" not in page
        for file in re.findall(r'(?:src|href)="([^"]+)"', page.decode()):
            status, content_type, body = get(node, f"/habitat/v1/{file}")
            assert (status, len(body) > 500) == (200, True)
            assert content_type in ("text/css", "text/javascript", "image/png")
        assert get(node, "/habitat/v1/docs/index.html")[0] == 404


class TestRead:
    def test_by_the_reference_parser_of_asyncapi(self, node: County, tmp_path: pathlib.Path) -> None:
        for name in ("check.mjs", "package.json"):
            shutil.copy(HERE / "asyncapi" / name, tmp_path)
        install = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(install, cwd=tmp_path, check=True, timeout=240)
        (tmp_path / "document.json").write_bytes(get(node, "/habitat/v1/asyncapi.json")[2])
        done = subprocess.run(
            ["node", "check.mjs", "document.json"], cwd=tmp_path, capture_output=True, timeout=180, check=True
        )
        found = json.loads(done.stdout)
        assert found["wrong"] == []
        assert found["channels"] > 200

    def test_and_no_answer_is_missing(self, node: County, tmp_path: pathlib.Path) -> None:
        """Schemathesis sends what the document allows and what it does not, and holds the answers against
        it."""
        token = node.token("KA", "360423", "--organisation", "91360423TE5T000169", "--ttl", "1d")
        words = [
            *(str(pathlib.Path(sys.executable).parent / "st"), "run"),
            f"http://127.0.0.1:{node.port}/habitat/v1/openapi.json",
            *("--header", f"Authorization: Bearer {token}", "--checks", CHECKS, "--phases", "fuzzing"),
            *("--max-examples", str(COUNT), "--seed", "8423", "--no-shrink", "--continue-on-failure"),
            *("--suppress-health-check", "all", "--warnings", "off", "--workers", "2", "--no-color"),
        ]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=600)  # noqa: PLW1510
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr
        methods = len(re.findall(r'"operationId"', get(node, "/habitat/v1/openapi.json")[2].decode()))
        assert re.search(rf"Tested: +{methods}\b", done.stdout), done.stdout
