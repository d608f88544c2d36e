"""What the gateway's configuration says, without an Envoy."""

import base64
import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from gateway import envoy, published, replies

OF_NODES = (
    *("PullLog", "DigestRecords", "FetchRecords"),
    *("FreezeRegion", "ExportRegion", "ImportRegion", "SumRegion", "ReduceRegion"),
    *("AssumeRegion", "SetEventsAside", "ReconcileCopy", "GetCondition"),
)
"""Reads that only nodes make."""
CONTRACTS = pathlib.Path(__file__).resolve().parents[2] / "gen/village.binpb"


@pytest.fixture
def spec(tmp_path: pathlib.Path) -> envoy.NodeSpec:
    keys = tmp_path / "jwks.json"
    keys.write_text('{"keys": []}')
    return envoy.NodeSpec(
        region="360423",
        address="127.0.0.1",
        port=8423,
        endpoints={"habitat": "unix:run/services.sock"},
        node_endpoint="node.village:8500",
        issuers=(envoy.Issuer(issuer="https://a.invalid", jwks=keys),),
        descriptor_set=CONTRACTS,
    )


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping inside a rendered file."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)


def manager(files: dict[str, Any]) -> dict[str, Any]:
    found = next(m for m in walk(files["dyn/lds.json"]) if "http_filters" in m)
    assert isinstance(found, dict)
    return found


def filters(files: dict[str, Any]) -> dict[str, dict[str, Any]]:
    listed = manager(files)["http_filters"]
    return {f["name"].removeprefix("envoy.filters.http."): f["typed_config"] for f in listed}


def routes(files: dict[str, Any]) -> list[dict[str, Any]]:
    (host,) = manager(files)["route_config"]["virtual_hosts"]
    return list(host["routes"])


class TestServices:
    def test_are_those_of_the_deployed_domains_and_the_node(self, spec: envoy.NodeSpec) -> None:
        offered = filters(envoy.render(spec))["grpc_json_transcoder"]["services"]
        assert "village.habitat.v1.ReportService" in offered
        assert "village.mesh.v1.DirectoryService" in offered
        assert "village.mesh.v1.EnrolmentService" in offered
        assert all(name.startswith(("village.habitat.v1.", "village.mesh.v1.")) for name in offered)

    def test_refuse_a_domain_without_contracts(self, spec: envoy.NodeSpec) -> None:
        with pytest.raises(ValueError, match="no service of cooking"):
            envoy.render(dataclasses.replace(spec, endpoints={"cooking": "unix:x"}))

    def test_tell_reads_from_writes(self) -> None:
        services = {s.full_name: s for s in published.services(CONTRACTS.read_bytes(), ["habitat"])}
        reports = services["village.habitat.v1.ReportService"]
        assert {"GetReport", "ListReports"} <= reports.reads
        assert not reports.reads & {"FileReport", "AcceptReport", "BatchActOnReports"}

    def test_leave_out_the_comments_of_the_contracts(self, spec: envoy.NodeSpec) -> None:
        inside = filters(envoy.render(spec))["grpc_json_transcoder"]["proto_descriptor_bin"]
        parsed = descriptor_pb2.FileDescriptorSet.FromString(base64.b64decode(inside))
        assert len(parsed.file) > 10
        assert not any(file.HasField("source_code_info") for file in parsed.file)

    def test_are_offered_by_a_list_of_domains(self) -> None:
        domains = published.domains(CONTRACTS.read_bytes())
        assert "habitat" in domains
        assert "mesh" not in domains


class TestRoutes:
    def test_end_in_a_refusal(self, spec: envoy.NodeSpec) -> None:
        *others, last = routes(envoy.render(spec))
        assert last == {"match": {"prefix": "/"}, "direct_response": {"status": 404}}
        assert {"prefix": "/"} not in [route["match"] for route in others]

    def test_lead_each_domain_to_its_own_cluster(self, spec: envoy.NodeSpec) -> None:
        files = envoy.render(spec)
        clusters = {cluster["name"] for cluster in files["dyn/cds.json"]["resources"]}
        assert clusters == {"habitat", "node"}
        for route in routes(files):
            if "route" in route:
                path = str(next(iter(route["match"].values())))
                assert route["route"]["cluster"] == ("habitat" if "habitat" in path else "node")

    def test_retry_an_unavailable_answer_for_reads_alone(self, spec: envoy.NodeSpec) -> None:
        for route in routes(envoy.render(spec)):
            retried = "unavailable" in route.get("route", {}).get("retry_policy", {}).get("retry_on", "")
            method = route["match"].get("path", "").rpartition("/")[2]
            told = ("Get", "List", "Compute", "BatchGet", "Draw", "Grade", "Aggregate")
            reads = method.startswith(told) or method in OF_NODES
            assert retried == reads, route["match"]

    def test_give_every_unary_call_one_and_the_same_limit(self, spec: envoy.NodeSpec) -> None:
        for route in routes(envoy.render(spec)):
            action = route.get("route", {})
            if "max_stream_duration" in action:
                assert {action["timeout"], *action["max_stream_duration"].values()} == {"15s"}
            elif action:
                assert action["timeout"] == "0s"
                path = route["match"].get("path") or route["match"]["safe_regex"]["regex"]
                called = (
                    *("ServerReflectionInfo", "Watch", "UploadAttachment", "DownloadReportPhoto"),
                    *("DownloadReportEvidence", "attachments", "photos/[^/]+", "evidence/[^/]+"),
                    *("StreamReadings", "readings:stream"),
                    *("DownloadManualDocument", "documents/[^/]+", "DownloadTipImage", "images/[^/]+"),
                )
                assert path.endswith(called)

    def test_allow_no_origin_unless_told(self, spec: envoy.NodeSpec) -> None:
        told = dataclasses.replace(spec, cors_origins=("https://app.example",))
        assert "CorsPolicy" not in json.dumps(envoy.render(spec))
        assert "https://app.example" in json.dumps(envoy.render(told))


class TestTraces:
    def test_are_none_unless_told(self, spec: envoy.NodeSpec) -> None:
        assert "tracing" not in manager(envoy.render(spec))

    def test_go_to_the_nodes_process_and_keep_what_a_caller_sampled(self, spec: envoy.NodeSpec) -> None:
        told = manager(envoy.render(dataclasses.replace(spec, trace_ratio=0.25)))["tracing"]["provider"]
        assert told["typed_config"]["grpc_service"]["envoy_grpc"] == {"cluster_name": "node"}
        sampler = told["typed_config"]["sampler"]
        assert sampler["name"].endswith("parent_based")
        share = sampler["typed_config"]["wrapped_sampler"]["typed_config"]["sampling_percentage"]
        assert share == {"numerator": 250_000, "denominator": "MILLION"}


class TestFilters:
    def test_stand_in_the_order_that_lets_each_see_what_it_must(self, spec: envoy.NodeSpec) -> None:
        assert list(filters(envoy.render(spec))) == [
            *("cors", "flood", "jwt_authn", "local_ratelimit", "buffer"),
            *("grpc_web", "grpc_json_transcoder", "grpc_stats", "router"),
        ]

    def test_ask_every_issuer_and_let_a_missing_token_pass(self, spec: envoy.NodeSpec) -> None:
        two = dataclasses.replace(spec, issuers=spec.issuers * 2)
        tokens = filters(envoy.render(two))["jwt_authn"]
        (health, everything) = tokens["rules"]
        assert (health["match"], "requires" in health) == ({"path": "/healthz"}, False)
        asked = everything["requires"]["requires_any"]["requirements"]
        assert asked == [{"provider_name": "issuer-0"}, {"provider_name": "issuer-1"}, {"allow_missing": {}}]
        for provider in tokens["providers"].values():
            assert provider["require_expiration"]
            assert provider["audiences"] == ["village-mesh"]
            assert provider["local_jwks"] == {"inline_string": '{"keys": []}'}

    def test_need_an_issuer(self, spec: envoy.NodeSpec) -> None:
        with pytest.raises(ValueError, match="issuer"):
            envoy.render(dataclasses.replace(spec, issuers=()))

    def test_let_in_as_many_calls_as_told(self, spec: envoy.NodeSpec) -> None:
        limited = envoy.render(dataclasses.replace(spec, calls_per_second=7))
        assert filters(limited)["local_ratelimit"]["token_bucket"]["max_tokens"] == 7

    @pytest.mark.parametrize(("told", "share"), [({}, 250), ({"calls_per_caller": 7}, 7)])
    def test_let_one_caller_make_a_quarter_of_them(
        self, spec: envoy.NodeSpec, told: dict[str, int], share: int
    ) -> None:
        limited = filters(envoy.render(dataclasses.replace(spec, calls_per_second=1000, **told)))
        buckets = [d["token_bucket"]["max_tokens"] for d in limited["local_ratelimit"]["descriptors"]]
        assert buckets == [share, share]


class TestReplies:
    def test_have_the_form_of_a_status(self) -> None:
        bodies = [m["body_format_override"] for m in replies.mappers() if "body_format_override" in m]
        assert len(bodies) > 10
        for body in bodies:
            assert set(body["json_format"]) == {"code", "message", "details"}
            assert 1 <= body["json_format"]["code"] <= 16
            assert body["content_type"] == "application/json"

    def test_end_with_one_for_everything_else(self) -> None:
        last = replies.mappers()[-1]["filter"]["and_filter"]["filters"][0]["status_code_filter"]
        assert (last["comparison"]["op"], last["comparison"]["value"]["default_value"]) == ("GE", 400)


class TestEndpoints:
    def test_are_sockets_or_hosts(self, spec: envoy.NodeSpec) -> None:
        habitat, node = envoy.render(spec)["dyn/cds.json"]["resources"]
        addresses = [
            cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
            for cluster in (habitat, node)
        ]
        assert addresses == [
            {"pipe": {"path": "run/services.sock"}},
            {"socket_address": {"address": "node.village", "port_value": 8500}},
        ]
        assert (habitat["type"], node["type"]) == ("STATIC", "STRICT_DNS")


class TestWrite:
    def test_leaves_an_unchanged_file_alone_and_no_rest(
        self, spec: envoy.NodeSpec, tmp_path: pathlib.Path
    ) -> None:
        envoy.write(spec, tmp_path)
        folder = tmp_path / "envoy/dyn"
        before = {path.name: path.stat().st_ino for path in folder.iterdir()}
        envoy.write(spec, tmp_path)
        assert {path.name: path.stat().st_ino for path in folder.iterdir()} == before
        envoy.write(dataclasses.replace(spec, port=9000), tmp_path)
        after = {path.name: path.stat().st_ino for path in folder.iterdir()}
        assert after.keys() == before.keys() == {"cds.json", "lds.json"}
        assert after["lds.json"] != before["lds.json"]
        assert after["cds.json"] == before["cds.json"]

    def test_holds_no_path_of_this_machine(self, spec: envoy.NodeSpec) -> None:
        assert str(CONTRACTS.parent) not in json.dumps(envoy.render(spec))
