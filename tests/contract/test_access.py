"""Who may call what (I5), generated from the protos: every method, every role, every place."""

import dataclasses
import datetime
import itertools
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from cli import sample
from mesh import calls, contract, errors, identity, outbox, resources, runtime
from services.habitat.service import SERVICE
from tests import samples
from tests.county import (
    COUNTY_UNIT,
    PHOTO,
    REGION,
    TOWN,
    TOWN_UNIT,
    VILLAGE,
    VILLAGE_UNIT,
    County,
    issuer,
)
from tests.loop import PARENT, VERBS, WAYS, ask, file, reach
from village.habitat.v1 import report_pb2 as pb
from village.habitat.v1 import report_policy_pb2 as policy_pb
from village.mesh.v1 import (
    audit_pb2,
    dead_letter_pb2,
    delegation_pb2,
    delivery_pb2,
    directory_pb2,
    handover_pb2,
    link_pb2,
    unsealing_pb2,
)
from village.options.v1 import options_pb2
from village.type.v1 import attachment_pb2

FOUND = contract.read("village.habitat.v1")
_OWN = ("report.proto", "report_policy.proto", "foundation.proto")
METHODS = [
    n
    for n, m in samples.methods("village.habitat.v1").items()
    if m.containing_service.file.name.endswith(_OWN)
]
"""Those of reports and of the plumbing, place by place; `test_services.py` asks about every method."""
ROLES = [value.name.removeprefix("ROLE_") for value in options_pb2.Role.DESCRIPTOR.values[1:]]
PLACES = {
    "the county": REGION,
    "its township": TOWN,
    "its village": VILLAGE,
    "another township": "360423101",
    "another village": "360423100202",
    "a sibling county": "360424",
    "a sibling's township": "360424100",
    "the city": "360400",
    "another city": "360700",
    "the province": "360000",
    "another province": "110000",
}
"""Where a token may be from; the records lie in Wuning, in VILLAGE."""


@pytest.fixture
def database_url(tmp_path: Any) -> str:
    """These questions are decided before the database."""
    return f"sqlite:///{tmp_path}/{{domain}}.db"


def trust_everywhere(county: County) -> County:
    """Issuers everywhere in its file that vouch for roles of every level."""
    jwks = "jwks.json"
    regions = sorted({code[:6] for code in PLACES.values()})
    entries = [{"issuer": issuer(r), "jwks": jwks, "region": r, "highest_level": "PROVINCE"} for r in regions]
    write_issuers(county, entries)
    return county


@pytest.fixture
def trusting(county: County) -> County:
    """A county that trusts everywhere, for a test of its own."""
    return trust_everywhere(county)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[County]:
    """One for all questions that leave it able to answer the next."""
    folder = tmp_path_factory.mktemp("asked")
    county = County(folder, f"sqlite:///{folder}/{{domain}}.db")
    yield trust_everywhere(county)
    county.close()


def write_issuers(county: County, entries: list[dict[str, Any]]) -> None:
    (county.folder / "trust/issuers.json").write_text(json.dumps({"issuers": entries}))
    look_again(county)


def look_again(county: County) -> None:
    """Files are looked at once a second; a test does not wait."""
    county.chain.callers._issuers._looked = 0.0


def span(county: County) -> dict[str, Any]:
    return {
        "start_time": resources.stamp(county.now),
        "end_time": resources.stamp(county.now + datetime.timedelta(days=7)),
    }


def records(county: County) -> dict[str, str]:
    """Names of one record of each kind that the plumbing keeps in every domain; made once."""
    known: dict[str, str] = county.__dict__.setdefault("plumbing_records", {})
    if not known:
        given = delegation_pb2.GiveDelegationRequest(
            parent=PARENT, delegation={"deputy": "officer-2", **span(county)}
        )
        known["delegation"] = county.call("county", given).name
        wanted = {"record": file(county).name, "purpose": "核实举报人身份以便回访"}
        asked = unsealing_pb2.RequestUnsealingRequest(parent=PARENT, unsealing=wanted)
        known["unsealing"] = county.call("county", asked).name
        call = calls.own(county.store, "test", county.now, REGION)
        letter = dead_letter_pb2.DeadLetter(reaction="none")
        call.create(letter, parent=PARENT, event=dead_letter_pb2.DeadLetterKept, wanted="x-none")
        county.store.commit(call.changes.commit())  # type: ignore[arg-type]
        known["dead letter"] = letter.name
        call = calls.own(county.store, "test", county.now, REGION)
        delivery = delivery_pb2.Delivery(about_region=REGION, state=1)
        call.create(delivery, parent=PARENT, event=delivery_pb2.DeliveryQueued)
        county.store.commit(call.changes.commit())  # type: ignore[arg-type]
        known["delivery"] = delivery.name
        (grant,) = county.store.grants.all()
        log = outbox.Log(county.store, grant)
        log.take_over()
        log.number()
    return known


def requests(county: County, name: str) -> dict[str, Any]:
    """A good request for every method."""
    good_policy = policy_pb.ReportPolicy(
        basis="x", accept_working_days=1, assign_working_days=1, return_working_days=1, verify_working_days=1,
        feedback_working_days=1, dispute_working_days=1, escalate_working_days=1,
        extension_working_days=1,
        rectify_limits=[{"level": level, "working_days": 1} for level in (1, 2, 3)],
        effective_time=resources.stamp(county.now + datetime.timedelta(days=1)),
    )  # fmt: skip
    report = {"category": 1, "description": "x", "division": VILLAGE,
              "location": {"latitude": 29.26, "longitude": 115.1}}  # fmt: skip
    kept = records(county)
    found: dict[str, Any] = {
        "UploadAttachment": attachment_pb2.UploadAttachmentRequest(
            parent=PARENT, content={"data": sample.PHOTO}
        ),
        "GiveDelegation": delegation_pb2.GiveDelegationRequest(
            parent=PARENT, delegation={"deputy": "x", **span(county)}
        ),
        "RevokeDelegation": delegation_pb2.RevokeDelegationRequest(name=kept["delegation"]),
        "ListDelegations": delegation_pb2.ListDelegationsRequest(parent=PARENT),
        "RequestUnsealing": unsealing_pb2.RequestUnsealingRequest(
            parent=PARENT, unsealing={"record": name, "purpose": "核实举报人身份以便回访"}
        ),
        "ApproveUnsealing": unsealing_pb2.ApproveUnsealingRequest(name=kept["unsealing"], valid_hours=1),
        "RefuseUnsealing": unsealing_pb2.RefuseUnsealingRequest(name=kept["unsealing"]),
        "OpenUnsealing": unsealing_pb2.OpenUnsealingRequest(name=kept["unsealing"], purpose="回访"),
        "ListUnsealings": unsealing_pb2.ListUnsealingsRequest(parent=PARENT),
        "ListAuditEntries": audit_pb2.ListAuditEntriesRequest(parent=PARENT),
        "GetDeadLetter": dead_letter_pb2.GetDeadLetterRequest(name=kept["dead letter"]),
        "ListDeadLetters": dead_letter_pb2.ListDeadLettersRequest(parent=PARENT),
        "ReplayDeadLetter": dead_letter_pb2.ReplayDeadLetterRequest(name=kept["dead letter"]),
        "DropDeadLetter": dead_letter_pb2.DropDeadLetterRequest(name=kept["dead letter"]),
        "RequestReportExtension": pb.RequestReportExtensionRequest(name=name, reason="雨天"),
        "DecideReportExtension": pb.DecideReportExtensionRequest(name=name, approve=True),
        "EraseReport": pb.EraseReportRequest(name=name, purpose="本人申请"),
        "ReleaseReportPhoto": pb.ReleaseReportPhotoRequest(
            name=name, sha256=str(PHOTO["sha256"]), redacted=PHOTO
        ),
        "DownloadReportPhoto": pb.DownloadReportPhotoRequest(name=name, sha256=str(PHOTO["sha256"])),
        "DownloadReportEvidence": pb.DownloadReportEvidenceRequest(name=name, sha256=str(PHOTO["sha256"])),
        "BatchGetReports": pb.BatchGetReportsRequest(parent=PARENT, names=[name]),
        "BatchFileReports": pb.BatchFileReportsRequest(
            parent=PARENT, requests=[pb.FileReportRequest(parent=PARENT, report=report)]
        ),
        "FileReport": pb.FileReportRequest(parent=PARENT, report=report),
        "GetReport": pb.GetReportRequest(name=name),
        "ListReports": pb.ListReportsRequest(parent=PARENT),
        "ListReportSteps": pb.ListReportStepsRequest(parent=name),
        "BatchActOnReports": pb.BatchActOnReportsRequest(
            parent=PARENT, actions=[pb.ReportAction(accept=ask("accept", name))]
        ),
        "ComputeReportFigures": pb.ComputeReportFiguresRequest(parent=PARENT),
        "IssueReportPolicy": policy_pb.IssueReportPolicyRequest(
            parent=PARENT, report_policy=good_policy, report_policy_id="x-1"
        ),
        "GetReportPolicy": policy_pb.GetReportPolicyRequest(name=f"{PARENT}/reportPolicies/default"),
        "ListReportPolicies": policy_pb.ListReportPoliciesRequest(parent=PARENT),
        "GetDelivery": delivery_pb2.GetDeliveryRequest(name=kept["delivery"]),
        "ListDeliveries": delivery_pb2.ListDeliveriesRequest(parent=PARENT),
        "UrgeReport": pb.UrgeReportRequest(name=name, reason="尽快办理"),
        "ReopenReport": pb.ReopenReportRequest(name=name, reason="重办"),
        "FreezeRegion": handover_pb2.FreezeRegionRequest(parent=PARENT),
        "ExportRegion": handover_pb2.ExportRegionRequest(parent=PARENT),
        "ImportRegion": handover_pb2.ImportRegionRequest(parent=PARENT),
        "SumRegion": handover_pb2.SumRegionRequest(parent=PARENT),
        "ReduceRegion": handover_pb2.ReduceRegionRequest(parent=PARENT),
        "AssumeRegion": handover_pb2.AssumeRegionRequest(parent=PARENT, epoch=1),
        "SetEventsAside": handover_pb2.SetEventsAsideRequest(parent=PARENT, about_region=REGION),
        "ReconcileCopy": directory_pb2.ReconcileCopyRequest(
            parent=PARENT, about_region="360000", domain="habitat"
        ),
        "GetCondition": directory_pb2.GetConditionRequest(),
        "PullLog": link_pb2.PullLogRequest(parent=PARENT, max_bytes=1000),
        "DigestRecords": link_pb2.DigestRecordsRequest(parent=PARENT, kind="village.habitat.v1.Report"),
        "FetchRecords": link_pb2.FetchRecordsRequest(
            parent=PARENT, kind="village.habitat.v1.Report", names=[name]
        ),
    }
    for verb, (cls, _, _) in VERBS.items():
        made = ask(verb, name, **({"duplicate_of": name} if verb == "mark_duplicate" else {}))
        found.setdefault(cls.__name__.removesuffix("Request"), made)
    return found


def expected(method: contract.Method, role: str, place: str, *, own: bool, unit: str) -> bool:
    """Whether the annotation lets it pass, worked out anew: digits compared, nothing else."""
    within = {2: place[:2], 4: place[:4]}.get(len(place.rstrip("0")) if len(place) == 6 else 0, place)
    of_county = method.name in {
        *("IssueReportPolicy", "RequestUnsealing", "RevokeDelegation", "ApproveUnsealing", "RefuseUnsealing"),
        *("OpenUnsealing", "GetDeadLetter", "ReplayDeadLetter", "DropDeadLetter", "GetDelivery"),
    }  # records that are no part of the county's
    about_record = "name" in method.request_fields or method.name in {
        *("FileReport", "ListReportSteps", "BatchGetReports", "GiveDelegation"),
    }
    for rule in method.rules:
        if rule.scope == options_pb2.SCOPE_PUBLIC:
            return True
        if role not in rule.roles:
            continue
        inside = VILLAGE.startswith(within)
        if not about_record:  # the county as a whole; lists show a division's token its part
            inside = inside or place.startswith(REGION)
        if of_county:
            inside = REGION.startswith(within)
        if rule.scope == options_pb2.SCOPE_OWN_REGION and place[:6] != REGION:
            inside = False
        if rule.scope == options_pb2.SCOPE_OWN_RECORDS:
            inside = (inside or place.startswith(REGION)) and (own or not about_record)
        if rule.handling_unit and unit != VILLAGE_UNIT:
            inside = False
        if inside:
            return True
    return False


def outcome(county: County, method: str, request: Any, headers: dict[str, str]) -> str:
    try:
        county.raw(method, request.SerializeToString(), headers)
    except errors.Refusal as refusal:
        return refusal.reason
    return "OK"


class TestEveryMethod:
    def test_has_a_request_here(self, asked: County) -> None:
        assert set(requests(asked, file(asked).name)) == set(METHODS)
        assert set(FOUND.methods) == {*SERVICE.handlers, *runtime.FOUNDATION}

    @pytest.mark.parametrize("method", METHODS)
    def test_lets_pass_whom_its_annotation_lets_pass(self, asked: County, method: str) -> None:
        # in this state the unit-bound verbs may pass; whatever the state refuses has passed permission
        name = reach(asked, "ASSIGNED", photos=[PHOTO]).name
        request, wrong = requests(asked, name)[method], []
        passed = {
            *("OK", "ACTION_NOT_ALLOWED", "ALREADY_EXISTS", "DUPLICATE_OF_ITSELF", "RETURN_ALREADY_USED"),
            *("EXTENSION_ALREADY_ASKED", "NO_EXTENSION_ASKED", "STILL_OPEN", "UNSEALING_DECIDED"),
            *("UNSEALING_NOT_APPROVED", "DEAD_LETTER_SETTLED"),
        }
        if method in ("DownloadReportEvidence", "ReplayDeadLetter"):
            passed.add("NOT_FOUND")  # there is no evidence yet, and no such reaction
        for role, (place, code), unit in itertools.product(ROLES, PLACES.items(), (VILLAGE_UNIT, TOWN_UNIT)):
            if role == "SYS":
                continue
            token = asked.minted(iss=issuer(code[:6]), sub=f"{role}-{code}",
                         roles=[role], region=code, organisation=unit)  # fmt: skip
            got = outcome(asked, method, request, {"authorization": f"Bearer {token}"})
            may = expected(
                FOUND.methods[method], role, code, own=method in ("FileReport", "GiveDelegation"), unit=unit
            )
            if got not in (passed if may else {"FORBIDDEN"}):
                wrong.append((role, place, unit == VILLAGE_UNIT, got))
        assert wrong == []

    @pytest.mark.parametrize("method", METHODS)
    def test_needs_a_token_unless_it_is_public(self, asked: County, method: str) -> None:
        request = requests(asked, file(asked).name)[method]
        public = any(r.scope == options_pb2.SCOPE_PUBLIC for r in FOUND.methods[method].rules)
        assert outcome(asked, method, request, {}) == ("OK" if public else "UNAUTHENTICATED")

    @pytest.mark.parametrize("method", METHODS)
    def test_answers_the_same_whether_or_not_the_record_exists(self, asked: County, method: str) -> None:
        """Permission before existence: a role without a rule, and a division that is not the record's."""
        here = reach(asked, "ASSIGNED").name
        absent = f"{PARENT}/reports/{uuid.uuid4()}"
        if "reports/" not in str(requests(asked, here)[method]) or method == "BatchActOnReports":
            return
        for role, place in (("LAB", REGION), ("TO", "360423101"), ("VO", "360423101200"), ("CZ", REGION),
                            ("KA", "360424"), ("PA", "110000"), ("KI", REGION)):  # fmt: skip
            token = asked.minted(iss=issuer(place[:6]), sub="x", roles=[role],
                         region=place, organisation=None)  # fmt: skip
            said = []
            for name in (here, absent):
                raw = requests(asked, name)[method].SerializeToString()
                try:
                    asked.raw(method, raw, {"authorization": f"Bearer {token}"})
                except errors.Refusal as refusal:
                    said.append((refusal.reason, str(refusal)))
                else:
                    said.append(("OK", ""))
            permitted = role == "KI" and any("KI" in rule.roles for rule in FOUND.methods[method].rules)
            assert permitted or said[0] == said[1]
            assert permitted or said[0][0] == "FORBIDDEN"

    @pytest.mark.parametrize("state", WAYS)
    def test_lets_an_own_record_be_read_in_every_state(self, asked: County, state: str) -> None:
        report = reach(asked, state)
        assert asked.call("resident", pb.GetReportRequest(name=report.name)).name == report.name

    def test_gives_a_foreign_region_nothing_of_what_is_here(self, asked: County) -> None:
        report = reach(asked, "ASSIGNED", description="MARK-7431")
        for place in ("360424", "360700", "110000"):
            for role in ROLES:
                if role == "SYS":
                    continue
                token = asked.minted(iss=issuer(place), roles=[role], region=place)
                headers = {"authorization": f"Bearer {token}"}
                wanted = requests(asked, report.name)
                wanted["ListReports"].filter = f'division:"{REGION}"'
                for method, request in wanted.items():
                    if any(r.scope == options_pb2.SCOPE_PUBLIC for r in FOUND.methods[method].rules):
                        continue
                    with pytest.raises(errors.Forbidden):
                        asked.raw(method, request.SerializeToString(), headers)


class TestNode:
    """What a node of the mesh may call in its own name, and what nobody else may."""

    OF_NODES = tuple(name for name, method in FOUND.methods.items() if method.of_nodes)
    ITS_OWN = ("AssumeRegion", "SetEventsAside", "ReconcileCopy", "GetCondition")
    """What only the node itself asks, from its other process."""

    def test_has_methods_of_its_own(self) -> None:
        assert set(self.OF_NODES) == {
            *("PullLog", "DigestRecords", "FetchRecords"),
            *("FreezeRegion", "ExportRegion", "ImportRegion", "SumRegion", "ReduceRegion"),
            *self.ITS_OWN,
        }

    @pytest.mark.parametrize("method", OF_NODES)
    def test_of_the_mesh_may_call_them(self, trusting: County, method: str) -> None:
        request = requests(trusting, file(trusting).name)[method]
        got = outcome(trusting, method, request, trusting.as_node())
        may = dict.fromkeys(("ExportRegion", "ImportRegion", "ReduceRegion"), "NOT_FROZEN")
        may |= dict.fromkeys(self.ITS_OWN, "FORBIDDEN")
        assert got == may.get(method, "OK")

    @pytest.mark.parametrize("method", ITS_OWN)
    def test_may_ask_its_own_service(self, trusting: County, method: str) -> None:
        request = requests(trusting, file(trusting).name)[method]
        got = outcome(trusting, method, request, trusting.as_node(REGION))
        assert got == {"ReconcileCopy": "NOT_FOUND"}.get(method, "OK")  # it has no lines

    @pytest.mark.parametrize("method", OF_NODES)
    def test_has_nothing_of_a_sibling_s(self, trusting: County, method: str) -> None:
        request = requests(trusting, file(trusting).name)[method]
        assert outcome(trusting, method, request, trusting.as_node("360424")) == "FORBIDDEN"

    def test_has_the_export_of_a_region_that_the_province_moves_to_it(self, trusting: County) -> None:
        export = handover_pb2.ExportRegionRequest(parent=PARENT)
        for receiver, got in (("360424", "OK"), ("360425", "FORBIDDEN"), ("", "FORBIDDEN")):
            freeze = handover_pb2.FreezeRegionRequest(parent=PARENT, receiver=receiver)
            assert outcome(trusting, "FreezeRegion", freeze, trusting.as_node()) == "OK"
            assert outcome(trusting, "ExportRegion", export, trusting.as_node("360424")) == got

    @pytest.mark.parametrize("method", OF_NODES)
    def test_lends_its_name_to_nobody(self, trusting: County, method: str) -> None:
        """A person whose call a node passes on is a person."""
        request = requests(trusting, file(trusting).name)[method]
        person = {"authorization": f"Bearer {trusting.token('county')}"}
        assert outcome(trusting, method, request, {**trusting.as_node(), **person}) == "FORBIDDEN"

    def test_is_nobody_to_every_other_method(self, trusting: County) -> None:
        for method, request in requests(trusting, file(trusting).name).items():
            public = any(r.scope == options_pb2.SCOPE_PUBLIC for r in FOUND.methods[method].rules)
            if method not in self.OF_NODES and not public:
                assert outcome(trusting, method, request, trusting.as_node()) == "UNAUTHENTICATED", method

    def test_by_itself_believes_no_other(self, trusting: County) -> None:
        wanted, headers = requests(trusting, file(trusting).name), trusting.as_node()
        trusting.chain.callers.directory = None
        person = {"authorization": f"Bearer {trusting.token('county')}"}
        for token in (headers["x-village-node"], "", "x", "a.b.c"):
            told = {"x-village-node": token}
            for method, request in wanted.items():
                assert outcome(trusting, method, request, told) == "UNAUTHENTICATED", method
                assert outcome(trusting, method, request, {**told, **person}) == "UNAUTHENTICATED", method


class TestPermit:
    """The rule itself, without a chain."""

    @staticmethod
    def method(**rule: Any) -> contract.Method:
        usual = {"roles": frozenset({"KA"}), "scope": options_pb2.SCOPE_OWN_REGION, "handling_unit": False,
                 "differs_from": ""}  # fmt: skip
        made = contract.Rule(**{**usual, **rule})
        return dataclasses.replace(FOUND.methods["AcceptReport"], rules=(made,))

    def test_takes_no_unit_for_nobody_s_unit(self) -> None:
        method = self.method(handling_unit=True)
        caller = identity.Caller("x", frozenset({"KA"}), REGION, "")
        with pytest.raises(errors.Forbidden):
            identity.permit(method, caller, identity.Place(REGION, VILLAGE, unit=""))
        known = dataclasses.replace(caller, organisation=COUNTY_UNIT)
        identity.permit(method, known, identity.Place(REGION, VILLAGE, unit=COUNTY_UNIT))

    def test_answers_with_the_role_that_counted(self) -> None:
        caller = identity.Caller("x", frozenset({"KA", "CZ"}), REGION, "")
        assert identity.permit(self.method(), caller, identity.Place(REGION, VILLAGE))[1] == "KA"

    def test_tells_an_earlier_actor_apart(self) -> None:
        method = self.method(differs_from=("handler", "handler_deputy"))
        caller = identity.Caller("x", frozenset({"KA"}), REGION, "")

        def place(*me: str) -> identity.Place:
            record = pb.Report(handler="x", handler_deputy="d")
            return identity.Place(REGION, VILLAGE, record=record, me=frozenset(me))

        for me in (("x",), ("d",), ("y", "x"), ("y", "d")):
            with pytest.raises(errors.Forbidden):
                identity.permit(method, caller, place(*me))
        identity.permit(method, caller, place("y", "z"))


class TestDocument:
    def test_says_what_the_protos_say(self) -> None:
        from cli import access

        assert access.DOCUMENT.read_text() == access.document()
