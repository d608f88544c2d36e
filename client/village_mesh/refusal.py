"""Why a call was not answered, as one exception. Separate from calling, so that code which only looks at
refusals needs nothing else."""

from __future__ import annotations

import dataclasses

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

DETAILS = "grpc-status-details-bin"


@dataclasses.dataclass(eq=False)
class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """A call was refused, or did not come through. `code` and `reason` are for programs, `chinese` is for
    people, `message` for logs. `reason` is empty when no service answered: the gateway refused, or nobody was
    there."""

    code: grpc.StatusCode
    message: str = ""
    reason: str = ""
    domain: str = ""
    chinese: str = ""
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    """What is wrong with the request, by the path of the field."""
    resource: str = ""
    """The name of the record that it is about, when that is missing or taken."""
    delay: float | None = None
    """Seconds to wait before repeating, when the service said so."""

    def __str__(self) -> str:
        wrong = "".join(f"; {path}: {why}" for path, why in self.fields.items())
        return f"{self.code.name} {self.reason}: {self.message}{wrong}"

    @classmethod
    def of(cls, error: grpc.RpcError) -> Refusal:
        """What an error of grpcio says."""
        if not isinstance(error, grpc.Call):
            return cls(grpc.StatusCode.UNKNOWN, str(error))
        found = cls(error.code(), error.details() or "")
        for key, value in error.trailing_metadata() or ():
            if key == DETAILS and isinstance(value, bytes):
                found._read(status_pb2.Status.FromString(value))
            elif key == "retry-after" and str(value).isdigit():
                found.delay = float(value)
        return found

    def _read(self, status: status_pb2.Status) -> None:
        info, wrong = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        about, text = error_details_pb2.ResourceInfo(), error_details_pb2.LocalizedMessage()
        again = error_details_pb2.RetryInfo()
        for detail in status.details:
            if detail.Unpack(info):
                self.reason, self.domain, self.metadata = info.reason, info.domain, dict(info.metadata)
            elif detail.Unpack(wrong):
                self.fields = {v.field: v.description for v in wrong.field_violations}
            elif detail.Unpack(about):
                self.resource = about.resource_name
            elif detail.Unpack(text):
                self.chinese = text.message
            elif detail.Unpack(again):
                self.delay = again.retry_delay.seconds + again.retry_delay.nanos / 1e9
