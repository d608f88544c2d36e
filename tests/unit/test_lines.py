"""How the lines between nodes are configured: the province's office, and a node's way to its province."""

import dataclasses
import json
import pathlib
import re
from typing import Any

import pytest

from gateway import envoy, lines
from tests.unit.test_envoy import CONTRACTS, walk

FILES = {"authority": "trust/authority.pem", "certificate": "trust/node.pem", "key": "secrets/node_key.pem"}
OFFICE = envoy.Office(address="127.0.0.2", port=8425, leaves="127.0.0.1:8426", **FILES)
PROVINCE = envoy.Province(
    address="province.example:443", name="360000.node.village.invalid", line="127.0.0.1:8427", **FILES
)
STRIPPED = "x-village-node"


@pytest.fixture
def alone(tmp_path: pathlib.Path) -> envoy.NodeSpec:
    keys = tmp_path / "jwks.json"
    keys.write_text('{"keys": []}')
    return envoy.NodeSpec(
        region="360423", address="127.0.0.1", port=8423, endpoints={"habitat": "unix:run/services.sock"},
        node_endpoint="node.village:8500", descriptor_set=CONTRACTS,
        issuers=(envoy.Issuer(issuer="https://a.invalid", jwks=keys),),
    )  # fmt: skip


@pytest.fixture
def province(alone: envoy.NodeSpec) -> envoy.NodeSpec:
    return dataclasses.replace(alone, region="360000", office=OFFICE)


@pytest.fixture
def joined(alone: envoy.NodeSpec) -> envoy.NodeSpec:
    return dataclasses.replace(alone, province=PROVINCE)


def listeners(spec: envoy.NodeSpec) -> dict[str, Any]:
    return {listener["name"]: listener for listener in envoy.render(spec)["dyn/lds.json"]["resources"]}


def clusters(spec: envoy.NodeSpec) -> dict[str, Any]:
    return {cluster["name"]: cluster for cluster in envoy.render(spec)["dyn/cds.json"]["resources"]}


def manager(listener: dict[str, Any]) -> dict[str, Any]:
    found = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert isinstance(found, dict)
    return found


def filters(listener: dict[str, Any]) -> list[str]:
    return [f["name"].removeprefix("envoy.filters.http.") for f in manager(listener)["http_filters"]]


def routes(listener: dict[str, Any]) -> list[dict[str, Any]]:
    (host,) = manager(listener)["route_config"]["virtual_hosts"]
    return list(host["routes"])


def stripped(listener: dict[str, Any]) -> set[str]:
    return {m["key_matcher"].get("prefix", "") for m in walk(manager(listener)) if "key_matcher" in m}


def tls(value: dict[str, Any]) -> dict[str, Any]:
    found = value["transport_socket"]["typed_config"]
    assert isinstance(found, dict)
    return found


class TestNodeByItself:
    def test_has_no_office_and_no_line(self, alone: envoy.NodeSpec) -> None:
        assert list(listeners(alone)) == ["public"]
        assert set(clusters(alone)) == {"habitat", "node"}

    def test_sends_nothing_elsewhere(self, alone: envoy.NodeSpec) -> None:
        text = json.dumps(envoy.render(alone))
        assert not any(word in text for word in (lines.PROVINCE, lines.LEAVES, "websocket", "rbac", "tls"))
        *_, last = routes(listeners(alone)["public"])
        assert last == {"match": {"prefix": "/"}, "direct_response": {"status": 404}}

    def test_refuses_tokens_of_issuers_that_it_does_not_know(self, alone: envoy.NodeSpec) -> None:
        assert "allow_missing_or_failed" not in json.dumps(envoy.render(alone))

    def test_takes_nobody_s_word_that_he_is_a_node(self, alone: envoy.NodeSpec) -> None:
        assert STRIPPED in stripped(listeners(alone)["public"])


class TestOffice:
    def test_stands_beside_the_public_listener_which_stays_as_it_was(
        self, alone: envoy.NodeSpec, province: envoy.NodeSpec
    ) -> None:
        found = listeners(province)
        assert list(found) == ["public", "office"]
        same = dataclasses.replace(alone, region="360000")
        text = json.dumps(listeners(same)["public"]).replace("allow_missing", "allow_missing_or_failed")
        assert json.dumps(found["public"]) == text, "but that tokens of issuers elsewhere pass"
        address = found["office"]["address"]["socket_address"]
        assert address == {"address": "127.0.0.2", "port_value": 8425}

    def test_asks_first_who_calls(self, province: envoy.NodeSpec) -> None:
        found = filters(listeners(province)["office"])
        assert found[0] == "rbac"
        assert found[-1] == "router"
        assert not {"cors", "jwt_authn", "local_ratelimit"} & set(found), "people do not call here"
        assert {"buffer", "grpc_json_transcoder"} <= set(found)

    def test_lets_pass_nodes_by_certificate_and_strangers_to_joining_only(
        self, province: envoy.NodeSpec
    ) -> None:
        rules = manager(listeners(province)["office"])["http_filters"][0]["typed_config"]["rules"]
        assert (rules["action"], set(rules["policies"])) == ("ALLOW", {"nodes", "strangers"})
        nodes, strangers = rules["policies"]["nodes"], rules["policies"]["strangers"]
        named = {"authenticated": {"principal_name": {"suffix": ".node.village.invalid"}}}
        assert nodes == {"permissions": [{"any": True}], "principals": [named]}
        assert strangers["principals"] == [{"any": True}]
        (permission,) = strangers["permissions"]
        paths = [rule["url_path"]["path"] for rule in permission["or_rules"]["rules"]]

        def open_to_strangers(path: str) -> bool:
            exact = {p["exact"] for p in paths if "exact" in p}
            return path in exact or any(
                re.fullmatch(p["safe_regex"]["regex"], path) for p in paths if "safe_regex" in p
            )

        assert len(paths) == 5
        for path in ("/mesh/v1/authority", "/mesh/v1/regions/360000/enrolments", "/healthz",
                     "/village.mesh.v1.EnrolmentService/EnrolNode",
                     "/village.mesh.v1.DirectoryService/GetAuthority"):  # fmt: skip
            assert open_to_strangers(path), path
        for path in ("/leafnode", "/", "/mesh/v1/regions/360000/grants",
                     "/mesh/v1/regions/360000/enrolments/360423",
                     "/village.mesh.v1.EnrolmentService/RenewBundle", "/habitat/v1/regions/360000/reports",
                     "/village.habitat.v1.LogService/PullLog"):  # fmt: skip
            assert not open_to_strangers(path), path

    def test_leaves_nodes_their_proof_and_takes_the_rest(self, province: envoy.NodeSpec) -> None:
        found = listeners(province)
        assert STRIPPED in stripped(found["public"])
        assert stripped(found["office"]) == stripped(found["public"]) - {STRIPPED}
        assert "x-envoy-" in stripped(found["office"])

    def test_takes_certificates_of_the_authority_s_only(self, province: envoy.NodeSpec) -> None:
        found = tls(listeners(province)["office"]["filter_chains"][0])
        assert found["require_client_certificate"] is False, "who joins has none yet"
        common = found["common_tls_context"]
        assert common["validation_context"] == {"trusted_ca": {"filename": FILES["authority"]}}
        (pair,) = common["tls_certificates"]
        assert pair["watched_directory"] == {"path": "trust"}, "it is renewed every day"
        assert "transport_socket" not in listeners(province)["public"]["filter_chains"][0]

    def test_leads_lines_to_the_broker_and_lets_them_last(self, province: envoy.NodeSpec) -> None:
        office = listeners(province)["office"]
        first = routes(office)[0]
        assert (first["match"], first["route"]["cluster"]) == ({"path": "/leafnode"}, lines.LEAVES)
        assert first["route"]["upgrade_configs"] == [{"upgrade_type": "websocket"}]
        assert first["route"]["timeout"] == "0s"
        assert "max_connection_duration" not in manager(office)["common_http_protocol_options"]
        assert lines.LEAVES in clusters(province)
        assert "/leafnode" not in json.dumps(listeners(province)["public"])


class TestJoined:
    def test_has_a_line_for_its_own_programs(self, joined: envoy.NodeSpec) -> None:
        found = listeners(joined)
        assert list(found) == ["public", "line"]
        address = found["line"]["address"]["socket_address"]
        assert address == {"address": "127.0.0.1", "port_value": 8427}
        assert [r["route"]["cluster"] for r in routes(found["line"])] == [lines.LINE, lines.PROVINCE]
        assert stripped(found["line"]) == set(), "its own programs say who they are"
        assert STRIPPED in stripped(found["public"])

    def test_knows_the_province_by_its_certificate(self, joined: envoy.NodeSpec) -> None:
        for name, protocol in ((lines.PROVINCE, "h2"), (lines.LINE, "http/1.1")):
            found = tls(clusters(joined)[name])
            assert found["sni"] == PROVINCE.name
            context = found["common_tls_context"]["validation_context"]
            assert context["trusted_ca"] == {"filename": FILES["authority"]}
            (wanted,) = context["match_typed_subject_alt_names"]
            assert wanted == {"san_type": "DNS", "matcher": {"exact": PROVINCE.name}}
            assert found["common_tls_context"]["alpn_protocols"] == [protocol]

    def test_sends_what_it_does_not_run_to_the_province_behind_all_that_it_runs(
        self, joined: envoy.NodeSpec
    ) -> None:
        where = [r["route"]["cluster"] for r in routes(listeners(joined)["public"]) if "route" in r]
        away = where.index(lines.PROVINCE)
        assert set(where[:away]) == {"habitat", "node"}
        assert set(where[away:]) == {lines.PROVINCE}
        *_, last = routes(listeners(joined)["public"])
        assert last["direct_response"] == {"status": 404}

    def test_passes_on_gateway_paths_of_domains_and_nothing_else(self, joined: envoy.NodeSpec) -> None:
        patterns = [
            r["match"]["safe_regex"]["regex"]
            for r in routes(listeners(joined)["public"])
            if r.get("route", {}).get("cluster") == lines.PROVINCE and "safe_regex" in r["match"]
        ]

        def passed(path: str) -> bool:
            return any(re.fullmatch(pattern, path) for pattern in patterns)

        assert passed("/culture/v1/regions/360423/things")
        assert passed("/village.culture.v1.ThingService/GetThing")
        assert not passed("/leafnode")
        assert not passed("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        assert not passed("/")

    def test_with_no_domain_of_its_own_passes_streams_on_without_a_limit(
        self, joined: envoy.NodeSpec
    ) -> None:
        bare = dataclasses.replace(joined, endpoints={})
        found = {r["match"].get("path", ""): r for r in routes(listeners(bare)["public"])}
        upload = found["/village.habitat.v1.AttachmentService/UploadAttachment"]["route"]
        assert (upload["cluster"], upload["timeout"]) == (lines.PROVINCE, "0s")

    def test_leaves_json_to_the_province_s_transcoder(self, joined: envoy.NodeSpec) -> None:
        for route in routes(listeners(joined)["public"]):
            if route.get("route", {}).get("cluster") == lines.PROVINCE:
                off = route["typed_per_filter_config"]["envoy.filters.http.grpc_json_transcoder"]
                assert off["proto_descriptor_bin"] == ""
