"""Calls through the gateway, in JSON and in gRPC."""

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from tests.gateway import FILE, GET, GOOD, REPORTS, Gateway
from village.habitat.v1 import report_pb2


def refuse_with_details(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Refuses as the services do: with the field that is wrong."""
    detail = any_pb2.Any()
    violation = error_details_pb2.BadRequest.FieldViolation(field="report.division", description="not here")
    detail.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason="INVALID", domain="mesh.village"))
    status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="no", details=[info, detail])
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort returns never")


class TestJson:
    def test_files_a_report_as_grpc(self, gateway: Gateway) -> None:
        status, body = gateway.json("POST", f"{REPORTS}?requestId=abc", body=GOOD)
        assert (status, body["name"]) == (200, "regions/360423/reports/1")
        (method, _, raw), *more = gateway.upstream.calls
        request = report_pb2.FileReportRequest.FromString(raw)
        assert (method, more) == (FILE, [])
        assert (request.parent, request.request_id) == ("regions/360423", "abc")
        assert request.report.description == "路边垃圾"

    def test_prints_zero_values(self, gateway: Gateway) -> None:
        _, body = gateway.json("POST", REPORTS, body=GOOD)
        assert (body["reworkCount"], body["overdue"]) == (0, False)

    def test_refuses_an_unknown_query_parameter(self, gateway: Gateway) -> None:
        status, body = gateway.json("POST", f"{REPORTS}?colour=red", body=GOOD)
        assert (status, body["code"], body["details"]) == (400, 3, [])
        assert "colour" in body["message"]
        assert gateway.upstream.calls == []

    def test_refuses_a_bad_enum(self, gateway: Gateway) -> None:
        status, body = gateway.json("POST", REPORTS, body={**GOOD, "category": "CATEGORY_NONSENSE"})
        assert (status, body["code"]) == (400, 3)
        assert gateway.upstream.calls == []

    def test_refuses_what_is_not_json(self, gateway: Gateway) -> None:
        status, body = gateway.json("POST", REPORTS, body=b"{", headers={"content-type": "application/json"})
        assert (status, body["code"]) == (400, 3)

    def test_refuses_a_body_of_two_megabytes_and_says_the_limit(self, gateway: Gateway) -> None:
        status, body = gateway.json("POST", REPORTS, body={**GOOD, "description": "x" * 2_000_000})
        assert (status, body["code"]) == (413, 3)
        assert "1048576" in body["message"]
        assert gateway.upstream.calls == []

    def test_passes_a_body_below_the_limit(self, gateway: Gateway) -> None:
        status, body = gateway.json("POST", REPORTS, body={**GOOD, "description": "x" * 900_000})
        assert (status, len(body["description"])) == (200, 900_000)

    @pytest.mark.parametrize("path", ["/", "/nothing", f"{REPORTS}/1:melt", "/culture/v1/regions/360423/x"])
    def test_answers_an_unknown_path_with_not_found(self, gateway: Gateway, path: str) -> None:
        status, body = gateway.json("POST", path, body={})
        assert (status, body["code"], body["details"]) == (404, 5, [])

    @pytest.mark.parametrize("path", [f"{REPORTS}%2F1", f"{REPORTS}%5C1"])
    def test_refuses_escaped_slashes(self, gateway: Gateway, path: str) -> None:
        status, body = gateway.json("GET", path)
        assert (status, body["code"]) == (400, 3)

    def test_shows_rich_details_of_a_refusal(self, gateway: Gateway) -> None:
        gateway.upstream.answers[FILE] = refuse_with_details
        status, body = gateway.json("POST", REPORTS, body=GOOD)
        assert (status, body["code"], body["message"]) == (400, 3, "no")
        by_type = {detail["@type"].rpartition(".")[2]: detail for detail in body["details"]}
        assert by_type["ErrorInfo"]["reason"] == "INVALID"
        assert by_type["BadRequest"]["fieldViolations"][0]["field"] == "report.division"

    def test_answers_healthz_without_a_token(self, gateway: Gateway) -> None:
        assert gateway.ask("GET", "/healthz", token=None)[0] == 200
        assert gateway.ask("GET", "/healthz", token="rubbish")[0] == 200


class TestGrpc:
    def test_files_a_report(self, gateway: Gateway) -> None:
        request = report_pb2.FileReportRequest(parent="regions/360423")
        answer = report_pb2.Report.FromString(gateway.call(FILE, request.SerializeToString()))
        assert answer.name == "regions/360423/reports/1"

    def test_tells_the_service_the_deadline(self, gateway: Gateway) -> None:
        left: list[float] = []

        def measure(request: bytes, context: grpc.ServicerContext) -> bytes:
            left.append(context.time_remaining() or 0)
            return b""

        gateway.upstream.answers[FILE] = measure
        gateway.json("POST", REPORTS, body=GOOD)
        gateway.call(FILE, b"")
        assert 12 < left[0] < 16
        assert 7 < left[1] < 11

    def test_is_not_held_to_the_limit_of_json(self, gateway: Gateway) -> None:
        request = report_pb2.FileReportRequest()
        request.report.description = "x" * 2_000_000
        answer = report_pb2.Report.FromString(gateway.call(FILE, request.SerializeToString()))
        assert len(answer.description) == 2_000_000

    def test_carries_a_refusal_with_details(self, gateway: Gateway) -> None:
        gateway.upstream.answers[FILE] = refuse_with_details
        with pytest.raises(grpc.RpcError) as refused:
            gateway.call(FILE, b"")
        status = rpc_status.from_call(refused.value)
        assert (status.code, len(status.details)) == (code_pb2.INVALID_ARGUMENT, 2)

    @pytest.mark.parametrize("method", ["/village.habitat.v1.ReportService/Melt", "/a.B/C"])
    def test_answers_an_unknown_method_with_unimplemented(self, gateway: Gateway, method: str) -> None:
        with pytest.raises(grpc.RpcError) as refused:
            gateway.call(method, b"")
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED

    def test_refuses_a_bad_token(self, gateway: Gateway) -> None:
        with pytest.raises(grpc.RpcError) as refused:
            gateway.call(FILE, b"", token=gateway.token(lasts=-600))
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert "expired" in refused.value.details()

    def test_tries_a_read_again_and_a_write_never(self, gateway: Gateway) -> None:
        def away(request: bytes, context: grpc.ServicerContext) -> bytes:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the database is away")
            raise AssertionError

        gateway.upstream.answers |= {FILE: away, GET: away}
        for method in (FILE, GET):
            with pytest.raises(grpc.RpcError) as refused:
                gateway.call(method, b"")
            assert refused.value.details() == "the database is away"
        seen = [method for method, _, _ in gateway.upstream.calls]
        assert (seen.count(FILE), seen.count(GET)) == (1, 3)
