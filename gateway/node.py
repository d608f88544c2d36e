"""The node process's own service: what this node is and runs, and, at the province, who belongs to the mesh.
Beside the gateway, because it speaks for the whole node and no domain."""

import json
import logging
import pathlib
import time
from typing import Any

from gateway import VERSION, authority, bundles, contracts, enrolment, handovers, services
from mesh import calls, conditions, deadlines, errors, links, resources, runtime, trust
from mesh.regions import level
from village.mesh.v1 import directory_pb2, enrolment_pb2

ASK_S, AGAIN_S = 30.0, 3.0
"""How often a node asks for news of the directory by itself, and how soon again when the line is away: until
it hears of them it writes for what it was the owner of."""
log = logging.getLogger(__name__)


def get_node(_request: directory_pb2.GetNodeRequest, call: calls.Call) -> directory_pb2.Node:
    process = call.services.node
    found = services.conditions(process)
    answer = directory_pb2.Node(
        region=call.region,
        level=level(call.region),  # type: ignore[arg-type]
        version=VERSION,
        services=[condition.service for condition in found],
        copies=[*(c for condition in found for c in condition.copies), *conditions.copies(call.store)],
    )
    if process.directory is not None:
        _describe(answer, process)
    return answer


def _describe(answer: directory_pb2.Node, process: Any) -> None:
    """What the node knows of the mesh."""
    view = process.directory.view
    answer.province, answer.directory_version = view.province, view.version
    answer.trust_expire_time.CopyFrom(resources.stamp(view.expires))
    if process.lines is not None:
        answer.line_trouble = process.lines.trouble
        if process.lines.ahead is not None:
            answer.clock_ahead.FromTimedelta(process.lines.ahead)
    for node in view.nodes.values():
        answer.nodes.add(region=node.region, software=node.software, revoked=node.revoked)
    for grant in view.grants.values():
        answer.grants.add(region=grant.region, domain=grant.domain, node=grant.node, epoch=grant.epoch)


def get_authority(
    _request: directory_pb2.GetAuthorityRequest, call: calls.Call
) -> directory_pb2.GetAuthorityResponse:
    office = enrolment.office_of(call, call.region)
    return directory_pb2.GetAuthorityResponse(
        region=office.region, certificate=office.authority.certificate.decode()
    )


def reconcile_copy(
    request: directory_pb2.ReconcileCopyRequest, call: calls.Call
) -> directory_pb2.ReconcileCopyResponse:
    process, left = call.services.node, deadlines.left()
    if process.lines is None or request.domain not in process.settings.runs:
        raise errors.NotFound(name=f"copy of {request.domain} in {request.about_region}")
    request.ClearField("request_id")  # what is repeated is compared again
    where, patience = (call.region, request.domain), services.LONG_S if left < 0 else left
    raw = services.ask(process, where, "ReconcileCopy", request, patience)
    return directory_pb2.ReconcileCopyResponse.FromString(raw)


class Ticks:
    """What the node process does about once a second: at the province it signs what has changed; elsewhere it
    asks for it."""

    def __init__(self) -> None:
        self._asked = 0.0

    def __call__(self, process: Any, hosted: runtime.Hosted) -> None:
        if process.directory is None or hosted.store is None:
            return
        if process.settings.authority_key:
            self._sign(process, hosted)
        else:
            self._ask(process)

    @staticmethod
    def _sign(process: Any, hosted: runtime.Hosted) -> None:
        assert hosted.store is not None
        office = bundles.of(process)
        if office.renew(hosted.store, resources.utcnow()):
            process.directory.refresh()
            process.lines.reload(process.settings.broker_system_url, hang_up=office.took_lines)
            process.lines.tell(links.DIRECTORY)

    def _ask(self, process: Any) -> None:
        if not process.lines.told.is_set() and time.monotonic() - self._asked < ASK_S:
            return
        process.lines.told.clear()
        self._asked = time.monotonic()
        directory, settings = process.directory, process.settings
        request = enrolment_pb2.RenewBundleRequest(
            parent=f"regions/{directory.view.province}", version=directory.view.version, software=VERSION,
            issuers=json.dumps(bundles.vouching(settings.issuers)),
        )  # fmt: skip
        path = "/village.mesh.v1.EnrolmentService/RenewBundle"
        asked = resources.utcnow()
        try:
            raw, _ = process.lines.call(directory.view.province, path, request.SerializeToString(), {}, 10.0)
        except errors.Refusal as refusal:
            why = services.why(refusal)
            log.warning("the directory could not be asked for", extra={"about": {"why": why}})
            process.lines.trouble, self._asked = why, time.monotonic() - ASK_S + AGAIN_S
            return
        answer = enrolment_pb2.RenewBundleResponse.FromString(raw)
        process.lines.trouble = ""
        if answer.HasField("time"):  # an older province does not say
            process.lines.ahead = asked + (resources.utcnow() - asked) / 2 - resources.moment(answer.time)
        if answer.certificate:
            keep(directory.folder, answer.certificate, answer.bundle)
            directory.refresh()


def keep(folder: pathlib.Path, certificate: str, bundle: Any) -> None:
    """Keeps a fresh certificate and bundle. BadBundle when the authority did not sign it, or signed it before
    the one that is kept, which may say less of who was shut out."""
    signer = (folder / trust.AUTHORITY).read_bytes()
    found = trust.opened(bundle, signer)
    if (folder / trust.BUNDLE).exists():
        try:
            held = trust.opened(bundles.read(folder / trust.BUNDLE), signer)
        except trust.BadBundle:  # another mesh's, before this one was joined
            held = None
        if held is not None and found.issued < held.issued:
            raise trust.BadBundle("the bundle is older than the one that is kept")
    authority.write(folder / trust.CERTIFICATE, certificate.encode())
    authority.write(folder / trust.BUNDLE, bundle.SerializeToString())


SERVICE = runtime.Service(
    domain="mesh",
    package="village.mesh.v1",
    handlers={
        "GetNode": get_node,
        "GetAuthority": get_authority,
        "ReconcileCopy": reconcile_copy,
        **contracts.HANDLERS,
        **enrolment.HANDLERS,
        **handovers.HANDLERS,
    },
    resources=(*enrolment.RESOURCES, *handovers.RESOURCES),
    migrations=pathlib.Path(__file__).parent / "migrations",
    foundation=False,
    ticks=Ticks(),
    carries=handovers.Mover(),
)
