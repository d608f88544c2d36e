"""`villagemesh conform` as a person types it: what it prints and writes, how it ends, and what it sends."""

import concurrent.futures
import datetime
import json
import pathlib
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import grpc
import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_reflection.v1alpha import reflection

from cli import conform as command
from cli import main
from conform import callers, rules
from deploy.local import directory, issuer
from tests.conform import broken, test_broken_servers
from tests.conform.served import Served
from tests.county import REGION

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Typed:
    """The command, and the server that it is aimed at."""

    def __init__(self, folder: pathlib.Path, served: Served) -> None:
        self.folder, self.served, self.alter = folder, served, broken.honest
        self.seen: list[broken.Call] = []
        self.server = broken.Broken(folder, served.address, self._through)
        self.tokens = folder / "tokens.env"
        self.tokens.write_text("\n".join(f"export T{n}={c.token}" for n, c in enumerate(served.tokens)))

    def _through(self, call: broken.Call) -> broken.Reply:
        self.seen.append(call)
        return self.alter(call)

    def __call__(self, *words: str, tokens: bool = True) -> Result:
        given = ("--tokens", str(self.tokens), "--region", REGION) if tokens else ()
        return CliRunner().invoke(main.main, ["conform", self.server.address, *given, *words])


@pytest.fixture
def typed(tmp_path: pathlib.Path, served: Served) -> Iterator[Typed]:
    found = Typed(tmp_path, served)
    yield found
    found.server.close()


def test_ends_well_when_nothing_is_found(typed: Typed) -> None:
    said = typed()
    assert said.exit_code == 0, said.output
    assert ", 0 failed, " in said.output.splitlines()[-1]


def test_by_itself_asks_nothing_of_methods_that_change_something(typed: Typed) -> None:
    said = typed()
    asked = {call.name for call in typed.seen}
    assert asked == {"GetReport", "ListReports", "ComputeReportFigures"}
    assert "it would write; allow that with --write" in said.output
    typed("--write")
    assert {call.name for call in typed.seen} == set(broken.METHODS)


def test_says_what_was_found_and_how_to_mend_it(typed: Typed, tmp_path: pathlib.Path) -> None:
    typed.alter = test_broken_servers.on_list(test_broken_servers.takes_negative_sizes)
    file = tmp_path / "found.xml"
    said = typed("--junit", str(file))
    assert said.exit_code == 1
    rule = rules.BY_NAME["page-size"]
    for part in ("FAILED  page-size  ReportService.ListReports", "page_size: -1", "came  OK", "(as KA of ",
                 rule.demands, rule.stands, rule.mend):  # fmt: skip
        assert part in said.output
    root = ElementTree.fromstring(file.read_bytes())
    failures = root.findall(".//failure")
    assert [f.get("type") for f in failures] == ["page-size"]
    assert rule.mend in str(failures[0].text)
    suites = {s.get("name"): s for s in root.findall("testsuite")}
    assert suites["page-size"].get("failures") == "1"
    for suite in suites.values():
        assert suite.get("tests") == str(len(suite.findall("testcase")))
        assert suite.get("skipped") == str(len(suite.findall(".//skipped")))


def test_checks_only_what_is_named(typed: Typed, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "found.xml"
    assert typed("--only", "token", "--only", "page-token", "--junit", str(file)).exit_code == 0
    root = ElementTree.fromstring(file.read_bytes())
    assert {s.get("name") for s in root} == {"token", "page-token"}


def test_without_tokens_looks_at_the_contract_alone(typed: Typed) -> None:
    said = typed(tokens=False)
    assert said.exit_code == 0, said.output
    assert "no token was given" in said.output
    assert typed.seen == []


def test_sends_the_samples_it_is_given(typed: Typed, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "samples.json"
    report: dict[str, Any] = {
        "category": "CATEGORY_TOILETS", "description": "公厕缺水", "division": "360423100201",
        "location": {"latitude": 29.3, "longitude": 115.2},
    }  # fmt: skip
    file.write_text(json.dumps({"FileReport": {"report": report}}))
    said = typed("--write", "--samples", str(file))
    assert said.exit_code == 0, said.output
    filed = [call.request for call in typed.seen if call.name == "FileReport" and call.raw[:2] != b"\x0a\x7f"
             and b"\xff\xfe" not in call.raw]  # fmt: skip
    assert any(request.report.description == "公厕缺水" for request in filed)


def certificate() -> tuple[bytes, bytes]:
    """A key and a certificate of localhost's, signed by itself, in PEM."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return secret, made.public_bytes(pem)


def test_reaches_an_endpoint_by_tls(tmp_path: pathlib.Path) -> None:
    secret, public = certificate()
    (tmp_path / "ca.pem").write_bytes(public)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    reflection.enable_server_reflection((broken.SHOWN,), server)
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(secret, public)]))
    server.start()
    words = ["conform", f"https://localhost:{port}", "--region", REGION]
    try:
        trusted = CliRunner().invoke(main.main, [*words, "--ca", str(tmp_path / "ca.pem")])
        assert trusted.exit_code == 0, trusted.output
        assert CliRunner().invoke(main.main, words).exit_code == 2, "whom nobody vouches for"
    finally:
        server.stop(0).wait()


class TestRefusesToRun:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--only", "page-sise"), "no rule page-sise"),
            (("--nats", "nats://127.0.0.1:1"), "--nats goes with --write"),
            (("--domain", "culture"), "lists no service of village.culture.v1"),
            (("--region", "36042"), "is no region of six digits"),
            (("--samples", "pyproject.toml"), "Error: "),
        ],
    )
    def test_what_it_cannot_mean(self, typed: Typed, words: tuple[str, ...], said: str) -> None:
        answer = typed(*words)
        assert (answer.exit_code, said in answer.output) == (2, True), answer.output

    def test_where_nobody_answers(self, typed: Typed) -> None:
        said = CliRunner().invoke(main.main, ["conform", "127.0.0.1:1", "--region", REGION])
        assert said.exit_code == 2
        assert "does not answer to reflection" in said.output

    def test_with_tokens_of_several_regions_and_none_named(self, typed: Typed) -> None:
        said = CliRunner().invoke(
            main.main, ["conform", typed.server.address, "--tokens", str(typed.tokens)]
        )  # fmt: skip
        assert (said.exit_code, "name the region with --region" in said.output) == (2, True)

    def test_with_a_token_that_the_endpoint_does_not_take(self, typed: Typed) -> None:
        head, body, signature = typed.served.tokens[0].token.split(".")
        typed.tokens.write_text(f"{head}.{body}.{signature[::-1]}")
        said = typed()
        assert (said.exit_code, "does not take the token of KA of 360423" in said.output) == (2, True)

    def test_with_a_file_without_tokens(self, typed: Typed) -> None:
        typed.tokens.write_text("none\n")
        assert typed().exit_code == 2


def test_signs_tokens_of_the_roles_that_a_node_may_vouch_for(tmp_path: pathlib.Path) -> None:
    directory.lay_out(tmp_path, REGION)
    issuer.create(tmp_path, REGION)
    found = callers.read("\n".join(command._signed(tmp_path)))
    roles = {role: caller for caller in found for role in caller.roles}
    assert {"KA", "TO", "VO", "CZ", "SEC"} <= set(roles)
    assert {"PA", "CI", "SYS"}.isdisjoint(roles)
    assert (roles["TO"].region, roles["VO"].region) == ("360423100", "360423100201")


def test_the_document_lists_every_rule() -> None:
    wanted = "\n".join(f"| `{r.name}` | {r.needs} | {r.demands} | {r.stands} |" for r in rules.RULES)
    assert wanted in (ROOT / "docs/conformance.md").read_text(encoding="utf-8")
