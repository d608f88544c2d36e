"""What the node process asks of its own node's services, in whichever processes they run: by a call, as it
asks other nodes. Separate from those who ask."""

import concurrent.futures
from typing import Any

from mesh import errors, trust
from village.mesh.v1 import directory_pb2

CALL_S, LOOK_S, LONG_S = 20.0, 1.0, 600.0
"""How long a call may take: a little longer than the call of another node that it may lead to; how long
`status` waits for a service that may hang; and how long a copy may be compared."""


def ask(process: Any, where: tuple[str, str], method: str, request: Any, timeout: float = CALL_S) -> bytes:
    """Calls the log service at `where`: a node, and a domain. Unavailable when it was certainly not
    delivered."""
    node, domain = where
    path = f"/village.{domain}.v1.LogService/{method}"
    raw, _ = process.lines.call(node, path, request.SerializeToString(), {}, timeout)
    return bytes(raw)


def condition(process: Any, domain: str, timeout: float = CALL_S) -> directory_pb2.GetConditionResponse:
    """How the node's own service of a domain is, and how far its copies are."""
    request, me = directory_pb2.GetConditionRequest(), process.directory.region
    raw = ask(process, (me, domain), "GetCondition", request, timeout)
    return directory_pb2.GetConditionResponse.FromString(raw)


def copy(process: Any, domain: str, region: str) -> directory_pb2.Copy:
    """How far the copy of a region is; empty when there is none."""
    found = (c for c in condition(process, domain).copies if c.region == region)
    return next(found, directory_pb2.Copy())


def conditions(process: Any) -> list[directory_pb2.GetConditionResponse]:
    """How all services of the node are, asked at once; one that does not answer is not ready. A node by
    itself has no lines, and knows those of its own process."""
    if process.lines is None:
        found = [service for service in process.conditions() if service.domain != trust.NODE_DOMAIN]
        return [directory_pb2.GetConditionResponse(service=service) for service in found]
    domains = process.settings.runs
    with concurrent.futures.ThreadPoolExecutor(max(len(domains), 1)) as pool:
        return list(pool.map(lambda domain: _condition(process, domain), domains))


def _condition(process: Any, domain: str) -> directory_pb2.GetConditionResponse:
    try:
        return condition(process, domain, LOOK_S)
    except (errors.Unavailable, errors.DeadlineExceeded):
        trouble = "it does not answer"
    except errors.Refusal as refusal:
        trouble = why(refusal)
    return directory_pb2.GetConditionResponse(
        service=directory_pb2.DomainService(domain=domain, trouble=trouble)
    )


def why(refusal: errors.Refusal) -> str:
    """What a refusal says, that of another node as it came."""
    return str(getattr(getattr(refusal, "status", None), "message", refusal))[:300]
