"""A refusal as `google.rpc.Status` with its details (AIP-193). Separate from `errors`, which is pure, and
from the transport, because batches answer with refusals too."""

from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from mesh import errors

MOST, LONGEST = 10, 120
"""How many wrong fields are named, and how much of a text is said: trailers hold 8 KiB."""


def status(refusal: errors.Refusal) -> status_pb2.Status:
    """A refusal as `google.rpc.Status` with its details; that of another node as it came."""
    if isinstance(refusal, errors.Passed):
        return refusal.status  # type: ignore[no-any-return]
    found = status_pb2.Status(code=refusal.code, message=str(refusal)[:LONGEST])
    meta = {key: value[:LONGEST] for key, value in refusal.metadata.items()}
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=refusal.reason, domain=refusal.domain, metadata=meta)
    ]
    if isinstance(refusal, errors.Invalid):
        bad = error_details_pb2.BadRequest()
        for field, why in refusal.violations[:MOST]:
            bad.field_violations.add(field=field[:LONGEST], description=why[:LONGEST])
        details.append(bad)
    elif isinstance(refusal, errors.NotFound | errors.AlreadyExists):
        details.append(error_details_pb2.ResourceInfo(resource_name=meta["name"]))
    elif isinstance(refusal, errors.Unavailable):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(refusal.delay * 1000))
        details.append(retry)
    elif refusal.code == errors.FAILED_PRECONDITION:
        failed = error_details_pb2.PreconditionFailure()
        failed.violations.add(
            type=refusal.reason, subject=meta.get("name", ""), description=str(refusal)[:LONGEST]
        )
        details.append(failed)
    details.append(error_details_pb2.LocalizedMessage(locale="zh-CN", message=refusal.localized[:LONGEST]))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        found.details.append(packed)
    return found


def reason(found: status_pb2.Status) -> str:
    """The reason in a status, or the name of its code."""
    info = error_details_pb2.ErrorInfo()
    for detail in found.details:
        if detail.Unpack(info):
            return str(info.reason)
    return f"CODE_{found.code}"
