"""What the documents say one can type, typed."""

import importlib
import json
import os
import pathlib
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from mesh import contract, events, resources
from services.habitat.report_flow import FLOW
from tests.waiting import free_ports, until
from village.options.v1 import options_pb2

ROOT = pathlib.Path(__file__).resolve().parents[2]
REPORT = {
    "category": "CATEGORY_WASTE",
    "description": "河边有垃圾",
    "division": "360423100201",
    "location": {"latitude": 29.26, "longitude": 115.09},
}


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of a document in that language."""
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(document: str) -> list[str]:
    """The `sh` blocks of a document."""
    return blocks(document, "sh")


def prose(document: str) -> str:
    """A document less its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", (ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL)


def names(document: str) -> set[str]:
    """What a document names letter by letter: codes, fields, headers, options."""
    return {" ".join(name.split()) for name in re.findall(r"`([^`]+)`", prose(document))}


def shape(document: str) -> list[str]:
    """The headings' levels and the tables' rows, in order."""
    return re.findall(r"^(#+ |\||- |\d\. )", prose(document), re.MULTILINE)


class Node:
    """A node as README starts it, in a directory of its own."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.run, self.data, self.port = folder, folder / "360423", free_ports(24)

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        """Runs a script in the checkout as a person would, `.run` being this node's directory."""
        script = script.replace(".run/", f"{self.run}/")
        environment = {**os.environ, "RUN": str(self.run), "PORT": str(self.port), "REPORTS": "60"}
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, env=environment,
            capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip

    def state(self) -> dict[str, str]:
        return json.loads((self.data / "node.json").read_text())

    def file(self) -> str:
        """Files a report by JSON; its name."""
        script = f'. {self.data}/tokens.env; printf %s "$RESIDENT"'
        request = urllib.request.Request(
            f"{self.state()['http']}/habitat/v1/regions/360423/reports",
            data=json.dumps(REPORT).encode(),
            headers={
                "Authorization": f"Bearer {self.shell(script).stdout}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["name"]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The node that README's first command starts."""
    found = Node(tmp_path_factory.mktemp("run"))
    started = found.shell(commands("README.md")[0])
    assert started.returncode == 0, started.stdout + started.stderr
    yield found
    stopped = found.shell("make down")
    assert stopped.returncode == 0, stopped.stderr


class TestReadme:
    def test_commands_do_what_it_says(self, node: Node) -> None:
        first, *rest = commands("README.md")
        assert first.strip() == "make up"
        for script in rest:
            done = node.shell(script)
            assert done.returncode == 0, done.stderr
            assert "欧**娜" in done.stdout
            assert "河边有垃圾" in done.stdout
            assert '"code"' not in done.stdout, done.stdout
            assert "habitat        ready" in done.stdout

    def test_says_the_same_in_chinese(self) -> None:
        assert commands("README.zh-CN.md") == commands("README.md")

    def test_second_start_keeps_the_data(self, node: Node) -> None:
        name = node.file()
        again = node.shell("make down && make up")
        assert again.returncode == 0, again.stderr
        script = (
            f'. {node.data}/tokens.env; curl -sSf -H "Authorization: Bearer $COUNTY" "$URL/habitat/v1/{name}"'
        )
        assert json.loads(node.shell(script).stdout)["name"] == name


class TestSubscribers:
    """docs/subscribers: ten lines each."""

    def follow(self, node: Node, command: list[str], folder: pathlib.Path) -> None:
        """Runs a subscriber and sees a report that is filed within a second."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "gen")}
        out = folder / "out.txt"
        with out.open("w") as written:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=written, stderr=written)
        try:
            names: list[str] = []

            def seen() -> bool:
                assert process.poll() is None, out.read_text()
                if len(names) < 50:  # until it has subscribed, events pass it by
                    names.append(node.file())
                return any(n in out.read_text() for n in names)

            until(seen, seconds=20)
            last = node.file()
            until(lambda: last in out.read_text(), seconds=1)
            line = next(line for line in out.read_text().splitlines() if last in line)
            assert re.fullmatch(rf"[0-9a-f-]{{36}} ReportFiled {last} REPORTED", line)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def test_in_python(self, node: Node, tmp_path: pathlib.Path) -> None:
        shutil.copy(ROOT / "docs/subscribers/subscribe.py", tmp_path)
        self.follow(node, [sys.executable, "subscribe.py", node.state()["nats"]], tmp_path)

    def test_in_node_js(self, node: Node, tmp_path: pathlib.Path) -> None:
        for name in ("subscribe.mjs", "package.json"):
            shutil.copy(ROOT / "docs/subscribers" / name, tmp_path)
        install = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(install, cwd=tmp_path, check=True, timeout=120)
        descriptors = str(ROOT / "gen/village.binpb")
        self.follow(node, ["node", "subscribe.mjs", node.state()["nats"], descriptors], tmp_path)

    def test_keep_a_ledger(self, node: Node, tmp_path: pathlib.Path) -> None:
        """docs/clients/ledger.py, as who may read and nothing else."""
        path, name = tmp_path / "ledger.db", node.file()
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'gen'}:{ROOT / 'client'}"}
        out = tmp_path / "out.txt"
        command = [sys.executable, ROOT / "docs/clients/ledger.py", node.state()["nats"], path]
        with out.open("w") as written:
            process = subprocess.Popen(command, env=environment, stdout=written, stderr=written)

        def entered() -> Any:
            assert process.poll() is None, out.read_text()
            with sqlite3.connect(path) as reading:
                made = reading.execute("SELECT name FROM sqlite_master WHERE name = 'ledger'").fetchall()
                return made and reading.execute("SELECT what FROM ledger WHERE name = ?", (name,)).fetchall()

        try:
            assert until(entered) == [("ReportFiled",)]
        finally:
            process.kill()
            process.wait()

    def test_are_about_ten_lines(self) -> None:
        for path in (ROOT / "docs/subscribers").glob("subscribe.*"):
            lines = [
                line for line in path.read_text().splitlines() if line and not line.startswith(("//", '"""'))
            ]
            assert len(lines) <= 14, path.name


class TestGuides:
    """What integrators and administrators are told to type: one terminal for each document."""

    @pytest.mark.parametrize(
        ("document", "said"),
        [
            (
                "docs/integrators.md",
                [
                    "STATE_ACCEPTED",
                    '"action":"accept"',
                    "STATE_ASSIGNED",
                    "ReportFiled",
                    '"mediaType":"image/jpeg"',
                ],
            ),
            ("docs/client.md", ["refused FORBIDDEN", "accepted 2 360423", "  state: STATE_ACCEPTED"]),
            (
                "docs/administrators.md",
                ["habitat        ready", '"rectifyLimits"', "ok   the secrets", "proven   seals 1 to "],
            ),
        ],
    )
    def test_commands_run(self, node: Node, document: str, said: list[str]) -> None:
        done = node.shell("\n".join(commands(document)))
        assert done.returncode == 0, done.stdout + done.stderr
        refused = re.findall(r'"code": ?\d', done.stdout)  # a standard has a code too, which is text
        assert not refused, done.stdout
        for text in said:
            assert text in done.stdout

    @pytest.mark.parametrize("document", ["integrators", "administrators"])
    def test_say_the_same_in_chinese(self, document: str) -> None:
        english, chinese = f"docs/{document}.md", f"docs/{document}.zh-CN.md"
        assert commands(chinese) == commands(english)
        assert blocks(chinese, "mermaid") == blocks(english, "mermaid")
        assert len(blocks(chinese, "text")) == len(blocks(english, "text"))
        assert names(chinese) == names(english)
        assert shape(chinese) == shape(english)

    def test_blocks_are_run_or_marked_as_text(self) -> None:
        for path in sorted((ROOT / "docs").glob("*.md")):
            fences = re.findall(r"^```(.+)$", path.read_text(), re.MULTILINE)
            assert set(fences) <= {"sh", "text", "mermaid"}, path.name

    def test_links_lead_somewhere(self) -> None:
        for path in sorted((ROOT / "docs").glob("*.md")):
            for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
                assert (path.parent / target).exists(), f"{path.name}: {target}"


Edge = tuple[str, str, str]
"""Verb, state before (empty when there was none), state after."""


class TestLifeOfAReport:
    """docs/integrators.md against the flow and the contract."""

    TEXT = (ROOT / "docs/integrators.md").read_text()
    ROW = re.compile(r"^\| (\w+) \S+ \| `(\w+)`[^|]*\| ([^|]*)\| ([A-Z_, ]*)→ ([A-Z_]+) \|", re.MULTILINE)

    def flow(self) -> set[Edge]:
        moves = {verb: a for verb, a in FLOW.actions.items() if a.target is not None}
        return {
            (
                verb,
                FLOW.state_name(source) if source else "",
                FLOW.state_name(action.target),
            )
            for verb, action in moves.items()
            if action.target is not None
            for source in action.sources or {0}
        }

    def test_diagram_is_the_flow(self) -> None:
        (diagram,) = [block for block in blocks("docs/integrators.md", "mermaid") if "stateDiagram" in block]
        drawn = [
            (verb, "" if before == "[*]" else before, after)
            for before, after, verb in re.findall(r"^\s*(\S+) --> (\S+): (\w+)$", diagram, re.MULTILINE)
        ]
        assert len(drawn) == len(set(drawn))
        assert set(drawn) == self.flow()
        last = set(re.findall(r"^\s*(\w+) --> \[\*\]$", diagram, re.MULTILINE))
        assert last == {after for _, _, after in drawn} - {before for _, before, _ in drawn}

    def test_table_is_the_flow(self) -> None:
        told = {
            (verb, before, after)
            for verb, _, _, sources, after in self.ROW.findall(self.TEXT)
            for before in sources.strip().split(", ")
        }
        assert told == self.flow()

    def test_table_names_who_may(self) -> None:
        methods = contract.read("village.habitat.v1").methods
        rows = self.ROW.findall(self.TEXT)
        assert rows
        for verb, method, who, _, _ in rows:
            rules = methods[method].rules
            assert set(re.findall(r"\b[A-Z]{2,3}\b", who)) == set().union(*(r.roles for r in rules)), verb
            assert ("of the handling unit" in who) == any(r.handling_unit for r in rules), verb
            assert ("not who rectified" in who) == any(r.differs_from for r in rules), verb
            own = any(r.scope == options_pb2.SCOPE_OWN_RECORDS for r in rules)
            assert ("the reporter only" in who) == own, verb


class TestWhatIntegratorsLookUp:
    TEXT = (ROOT / "docs/integrators.md").read_text()

    def test_roles_have_their_chinese_names(self) -> None:
        for value in options_pb2.Role.DESCRIPTOR.values[1:]:
            name = value.GetOptions().Extensions[options_pb2.role].name_zh
            assert f"| `{value.name.removeprefix('ROLE_')}` | {name} |" in self.TEXT

    @pytest.mark.parametrize("package", ["mesh", "habitat"])
    def test_every_reason_is_named(self, package: str) -> None:
        enum = importlib.import_module(f"village.{package}.v1.error_reason_pb2").ErrorReason
        for name in enum.keys()[1:]:
            assert f"`{name.removeprefix('ERROR_REASON_')}`" in self.TEXT

    def test_every_header_of_an_event_is_named(self) -> None:
        found = events.headers(
            event_id="", kind="", region="", domain="", name="", time=resources.EPOCH, epoch=1,
            incarnation=1, number=1, trace="t", audit_digest="",
        )  # fmt: skip
        told = set(re.findall(r"^\| `([\w-]+)` \|", self.TEXT.partition("## Events")[2], re.MULTILINE))
        assert told == set(found)

    def test_every_field_of_filters_is_named(self) -> None:
        shape = contract.shape(FLOW.resource.DESCRIPTOR)
        paragraph = self.TEXT.partition("`filter` follows AIP-160")[2].partition("\n\n")[0]
        assert set(re.findall(r"`(\w+)`", paragraph)) == {f.name for f in shape.fields if f.filterable}
