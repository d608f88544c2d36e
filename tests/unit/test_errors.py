"""The refusal vocabulary and its status."""

import pytest
from google.rpc import error_details_pb2

from mesh import errors, statuses
from services.habitat import report_flow


def details(refusal: errors.Refusal) -> dict[str, error_details_pb2.ErrorInfo]:
    found = {}
    for packed in statuses.status(refusal).details:
        cls = getattr(error_details_pb2, packed.type_url.rpartition(".")[2])
        found[cls.__name__] = cls.FromString(packed.value)
    return found


class TestStatus:
    @pytest.mark.parametrize(
        ("refusal", "code", "reason", "detail"),
        [
            (errors.Invalid("a.b", "is wrong"), 3, "INVALID", "BadRequest"),
            (errors.NotFound(name="x"), 5, "NOT_FOUND", "ResourceInfo"),
            (errors.AlreadyExists(name="x"), 6, "ALREADY_EXISTS", "ResourceInfo"),
            (errors.Forbidden(method="M", why="w"), 7, "FORBIDDEN", ""),
            (errors.Overloaded(what="it"), 8, "OVERLOADED", "RetryInfo"),
            (errors.NotOwnedHere(region="360424"), 9, "NOT_OWNED_HERE", "PreconditionFailure"),
            (errors.Conflict(name="x"), 10, "CONFLICT", ""),
            (errors.Internal(trace_id="t"), 13, "INTERNAL", ""),
            (errors.Unavailable(what="it", delay=2.5), 14, "UNAVAILABLE", "RetryInfo"),
            (errors.Unauthenticated(why="w"), 16, "UNAUTHENTICATED", ""),
            (errors.DeadlineExceeded(), 4, "DEADLINE_EXCEEDED", ""),
        ],
    )
    def test_has_the_code_the_reason_and_the_detail(
        self, refusal: errors.Refusal, code: int, reason: str, detail: str
    ) -> None:
        status, found = statuses.status(refusal), details(refusal)
        assert (status.code, status.message) == (code, str(refusal))
        assert (found["ErrorInfo"].reason, found["ErrorInfo"].domain) == (reason, "mesh.village")
        assert dict(found["ErrorInfo"].metadata) == refusal.metadata
        assert set(found) == {"ErrorInfo", "LocalizedMessage", detail} - {""}

    def test_of_a_service_s_refusal_names_its_domain(self) -> None:
        refusal = report_flow.ReturnAlreadyUsed(name="x")
        info = details(refusal)["ErrorInfo"]
        assert (info.reason, info.domain) == ("RETURN_ALREADY_USED", "habitat.village")

    def test_names_every_field_that_is_wrong(self) -> None:
        refusal = errors.Invalid.several([("a", "x"), ("b", "y")])
        bad = details(refusal)["BadRequest"]
        assert [v.field for v in bad.field_violations] == ["a", "b"]  # type: ignore[attr-defined]

    def test_says_when_to_try_again(self) -> None:
        retry = details(errors.Unavailable(what="it", delay=2.5))["RetryInfo"]
        assert retry.retry_delay.ToMilliseconds() == 2500  # type: ignore[attr-defined]
