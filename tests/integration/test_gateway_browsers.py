"""What browsers need of the gateway: gRPC-Web and CORS."""

import struct

import pytest

from tests.gateway import FILE, GOOD, ORIGIN, REPORTS, Gateway
from village.habitat.v1 import report_pb2


class TestGrpcWeb:
    def test_answers_a_page_of_an_allowed_origin(self, gateway: Gateway) -> None:
        message = report_pb2.FileReportRequest(parent="regions/360423").SerializeToString()
        status, headers, body = gateway.ask(
            "POST",
            FILE,
            body=struct.pack(">BI", 0, len(message)) + message,
            headers={"content-type": "application/grpc-web+proto", "origin": ORIGIN, "x-grpc-web": "1"},
        )
        flag, length = struct.unpack(">BI", body[:5])
        assert (status, flag) == (200, 0)
        assert report_pb2.Report.FromString(body[5 : 5 + length]).name == "regions/360423/reports/1"
        assert b"grpc-status:0" in body[5 + length :]
        assert headers["access-control-allow-origin"] == ORIGIN

    def test_lets_a_page_read_why_its_token_was_refused(self, gateway: Gateway) -> None:
        sent = {"content-type": "application/grpc-web+proto", "origin": ORIGIN, "x-grpc-web": "1"}
        token = gateway.token(lasts=-600)
        status, headers, _ = gateway.ask("POST", FILE, body=bytes(5), headers=sent, token=token)
        refused = status == 401 or headers.get("grpc-status") == "16"
        assert (refused, headers["access-control-allow-origin"]) == (True, ORIGIN)


PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}


class TestCors:
    @pytest.mark.parametrize("path", [REPORTS, FILE, "/mesh/v1/node"])
    def test_answers_preflight_without_a_token(self, gateway: Gateway, path: str) -> None:
        status, headers, _ = gateway.ask("OPTIONS", path, headers={"origin": ORIGIN, **PREFLIGHT}, token=None)
        assert (status, headers["access-control-allow-origin"]) == (200, ORIGIN)
        assert "authorization" in headers["access-control-allow-headers"]

    def test_gives_a_foreign_origin_nothing(self, gateway: Gateway) -> None:
        sent = {"origin": "https://evil.example"}
        _, preflight, _ = gateway.ask("OPTIONS", REPORTS, headers={**sent, **PREFLIGHT}, token=None)
        _, answer, _ = gateway.ask("POST", REPORTS, body=GOOD, headers=sent)
        assert "access-control-allow-origin" not in {**preflight, **answer}

    def test_marks_answers_and_refusals(self, gateway: Gateway) -> None:
        sent = {"origin": ORIGIN}
        answers = [
            gateway.ask("POST", REPORTS, body=GOOD, headers=sent),
            gateway.ask("POST", REPORTS, body=GOOD, headers=sent, token=gateway.token(lasts=-600)),
            gateway.ask("POST", f"{REPORTS}?colour=red", body=GOOD, headers=sent),
        ]
        assert [status for status, _, _ in answers] == [200, 401, 400]
        assert [headers.get("access-control-allow-origin") for _, headers, _ in answers] == [ORIGIN] * 3
