"""Reports carried to any state of the loop SM-0 by the people who may, for tests that begin there, and
what the database holds, for tests that nothing was written."""

from typing import Any

import sqlalchemy as sa

from tests.county import PHOTO, REGION, VILLAGE, VILLAGE_UNIT, County
from village.habitat.v1 import report_pb2 as pb
from village.type.v1 import level_pb2

PARENT = f"regions/{REGION}"
AT_VILLAGE = {"level": level_pb2.LEVEL_VILLAGE, "unit": VILLAGE_UNIT, "unit_title": "北岸村委会"}
FAILED = pb.VerifyReportRequest.RESULT_FAILED

VERBS: dict[str, tuple[type, str, dict[str, Any]]] = {
    "accept": (pb.AcceptReportRequest, "county", {"reason": "属实"}),
    "reject": (pb.RejectReportRequest, "county", {"reason": "不属人居环境"}),
    "mark_duplicate": (pb.MarkReportDuplicateRequest, "county", {"reason": "同一处"}),
    "assign": (pb.AssignReportRequest, "county", {"reason": "村内可办", **AT_VILLAGE}),
    "return": (pb.ReturnReportRequest, "village", {"reason": "不归本村"}),
    "start": (pb.StartReportRequest, "village", {"reason": "派人"}),
    "rectify": (pb.RectifyReportRequest, "village", {"reason": "清完", "evidence": [PHOTO]}),
    "verify": (
        pb.VerifyReportRequest,
        "town",
        {"reason": "看过", "result": pb.VerifyReportRequest.RESULT_PASSED},
    ),
    "send_back": (pb.VerifyReportRequest, "town", {"reason": "还有", "result": FAILED}),
    "send_feedback": (pb.SendReportFeedbackRequest, "county", {"feedback": "已清运"}),
    "dispute": (pb.DisputeReportRequest, "resident", {"reason": "没有清"}),
    "close": (pb.CloseReportRequest, "county", {"reason": "结案"}),
    "assess": (pb.AssessReportRequest, "county", {"reason": "及时", "score": 90}),
    "withdraw": (pb.WithdrawReportRequest, "resident", {"reason": "自己清了"}),
}
"""Verb → request, who takes it, and what he says."""

_WORK = ("accept", "assign", "start", "rectify", "verify", "send_feedback", "close", "assess")
WAYS: dict[str, tuple[str, ...]] = {
    "REPORTED": (),
    "REJECTED": ("reject",),
    "DUPLICATE": ("mark_duplicate",),
    "ACCEPTED": _WORK[:1],
    "ASSIGNED": _WORK[:2],
    "RETURNED": (*_WORK[:2], "return"),
    "IN_PROGRESS": _WORK[:3],
    "RECTIFIED": _WORK[:4],
    "VERIFIED": _WORK[:5],
    "FEEDBACK_SENT": _WORK[:6],
    "CLOSED": _WORK[:7],
    "ASSESSED": _WORK[:8],
    "WITHDRAWN": ("withdraw",),
}
"""State → the verbs that lead there from REPORTED."""


def file(county: County, who: str = "resident", claims: Any = None, **fields: Any) -> pb.Report:
    report = {
        "category": pb.Report.CATEGORY_WASTE, "description": "村口垃圾三天未清", "division": VILLAGE,
        "location": {"latitude": 29.26, "longitude": 115.1}, **fields,
    }  # fmt: skip
    return county.call(who, pb.FileReportRequest(parent=PARENT, report=report), **(claims or {}))


def ask(verb: str, name: str, **fields: Any) -> Any:
    """The request of a verb, as it is usually made."""
    cls, _, usual = VERBS[verb]
    return cls(name=name, **{**usual, **fields})


def take(county: County, verb: str, name: str, who: str = "", **fields: Any) -> pb.Report:
    """Takes a verb; before closing, the reporter's days to dispute pass."""
    if verb == "close":
        county.pass_time(days=8)
    return county.call(who or VERBS[verb][1], ask(verb, name, **fields))


def reach(county: County, state: str, **fields: Any) -> pb.Report:
    """A report in that state."""
    report = file(county, **fields)
    for verb in WAYS[state]:
        more = {"duplicate_of": file(county).name} if verb == "mark_duplicate" else {}
        report = take(county, verb, report.name, **more)
    assert pb.Report.State.Name(report.state) == f"STATE_{state}"
    return report


def steps(county: County, name: str) -> list[Any]:
    return list(county.call("county", pb.ListReportStepsRequest(parent=name, page_size=500)).steps)


def rows(county: County, sql: str, **parameters: Any) -> list[Any]:
    """Rows of a question to the database itself."""
    with county.store.database.engine.connect() as connection:
        return list(connection.execute(sa.text(sql), parameters).fetchall())


def execute(county: County, sql: str, **parameters: Any) -> None:
    with county.store.database.engine.connect() as connection:
        connection.execute(sa.text(sql), parameters)
        connection.commit()


def written(county: County) -> dict[str, Any]:
    """Everything that a commit changes: how many rows of each kind, and every report's version."""
    tables = ("mesh_outbox", "mesh_audit", "mesh_step", "mesh_request")
    found: dict[str, Any] = {t: rows(county, f"SELECT count(*) FROM {t}")[0][0] for t in tables}
    found["reports"] = sorted(tuple(r) for r in rows(county, "SELECT name, version, state FROM reports"))
    return found
