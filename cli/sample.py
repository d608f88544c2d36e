"""`villagemesh sample`: fills a node's habitat before its first start with a county's year: reports, of which
those of the last weeks stand in every state, and what the one map shows. Townships are Wuning's real ones;
villages, people and organisations are invented. It goes through the same chain as every call, with a clock of
its own."""

import base64
import datetime
import functools
import itertools
import os
import pathlib
import random
from typing import Any

import click

from cli import sample_country, sample_facilities, sheets
from cli.serve import service
from deploy.local import directory
from mesh import attachments, config, identity, resources, rpc, runtime, shapes, timers
from village.habitat.v1 import report_pb2 as pb
from village.habitat.v1 import report_policy_pb2
from village.type.v1 import level_pb2

TOWNS = [f"360423{n:03d}" for n in (1, *range(100, 108), *range(200, 211))]
COUNT = 6343
"""Reports of a year, as the guide has them of Wuning."""
PRAGMAS = ("synchronous=OFF", "cache_size=-262144")
DEFAULT_POLICY = "regions/360423/reportPolicies/default"
# a grey photo of one pixel
PHOTO = base64.b64decode(
    "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAP//////////////////////////////////////////////////////////////////"
    "////////////////////wgALCAABAAEBAREA/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQABPxA="
)
COUNTY_UNIT = "91360423TE5T000169"
VILLAGE_UNIT = "54360423TE5T00032R"
TOWN_UNIT = "N2360423TE5T00024K"
MATTERS = {
    pb.Report.CATEGORY_WASTE: ["村口垃圾桶三天未清运", "河边堆放生活垃圾", "垃圾清运车未按时到村"],
    pb.Report.CATEGORY_SEWAGE: ["污水管网堵塞外溢", "化粪池渗漏有异味", "污水处理站停机"],
    pb.Report.CATEGORY_TOILETS: ["公厕无人保洁", "公厕水箱损坏", "改厕后未及时清掏"],
    pb.Report.CATEGORY_APPEARANCE: ["村道旁乱堆建筑材料", "沿路乱贴广告", "空房前杂草丛生"],
    pb.Report.CATEGORY_MAINTENANCE: ["路灯损坏两盏", "护栏松动", "保洁员长期缺岗"],
}
SURNAMES, GIVEN = "王李张刘陈杨黄赵周吴", ["建国", "秀英", "志强", "桂兰", "海燕", "文", "明", "小红"]
_DONE = ["accept", "assign", "start", "rectify", "verify", "feedback", "close"]
_AGAIN = ["accept", "assign", "start", "rectify", "fail", "rectify", "verify", "feedback", "close"]
_DISPUTED = [*_DONE[:6], "dispute", *_DONE[3:]]
WAYS = [_DONE] * 9 + [[*_DONE, "assess"]] * 8 + [_AGAIN, _AGAIN, _DISPUTED]
"""How a report goes."""
RECENT_WAYS = [
    *(_DONE[:n] for n in range(7)), *([*_DONE[:6], "dispute"], _DISPUTED[:9]),
    *(["reject"], ["duplicate"], ["withdraw"], ["accept", "assign", "return"]),
    *(["accept", "assign", "return", "assign", "start"], [*_AGAIN[:5]]),
]  # fmt: skip
"""How far one of the last weeks has come: of each state there are some."""
YEAR, RECENT = datetime.timedelta(days=365), datetime.timedelta(days=18)
"""Reports of the last weeks are not closed yet: their reporter can still dispute."""


def sample(data: pathlib.Path, count: int = COUNT) -> None:
    """Fills the SQLite databases under `data` with so many reports and what lies beside them; for a node that
    is not running."""
    data = data.resolve()
    settings = config.load(
        {
            "VILLAGEMESH_REGION": "360423",
            "VILLAGEMESH_LISTEN": "unix:none",
            "VILLAGEMESH_DATABASE_URL": f"sqlite:///{data}/data/{{domain}}.db",
            "VILLAGEMESH_NATS_URL": "nats://127.0.0.1:1",
            **directory.files(data),
        }
    )
    clock = _Clock()
    (hosted,), chain = runtime.assemble([service("habitat")], settings, clock=lambda: clock.now)
    assert hosted.store is not None
    os.chmod(data / "data" / "habitat.db", 0o600)
    with hosted.store.database.cursor() as cursor:  # it is made anew if the machine fails
        for pragma in PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
    photo = attachments.keep(hosted.store, [PHOTO], clock.now)
    county = _County(chain, clock, photo)
    now, draw = resources.utcnow(), random.Random(360423)  # noqa: S311 - sample data, the same every time
    with click.progressbar(_steps(hosted.store, count, now, draw), label="A county's reports") as steps:
        rings = _midnight(now - YEAR)
        for moment, n, step in steps:
            while rings <= moment:  # a due time stands at the midnight that ends a working day
                _ring(hosted.store, clock, rings)
                rings += datetime.timedelta(days=1)
            clock.now = moment
            county.take(n, step, draw)
    _ring(hosted.store, clock, now)
    click.echo("What a county has: villages, stations with a week of readings, machines, ecology")
    ask, place = functools.partial(_ask, county, clock, now), sample_facilities.places(TOWNS)
    measured = sample_facilities.lay_out(hosted.store, ask, place, now)
    sample_country.lay_out(ask, place, photo, count, now)
    hosted.store.database.close()
    click.echo(f"{len(county.names)} synthetic reports, {measured} readings in {data}")


def _steps(
    store: Any, count: int, now: datetime.datetime, draw: random.Random
) -> list[tuple[datetime.datetime, int, str]]:
    """(when, which report, what) of everything that has happened to the reports, in order."""
    days = store.policy(report_policy_pb2.ReportPolicy, DEFAULT_POLICY).dispute_working_days
    recent = min(count, max(len(RECENT_WAYS), round(count * (RECENT / YEAR))))
    spans = [(RECENT, YEAR)] * (count - recent) + [(datetime.timedelta(hours=1), RECENT)] * recent
    starts = sorted(now - draw.uniform(0, 1) * (most - least) - least for least, most in spans)
    steps: list[tuple[datetime.datetime, int, str]] = []
    for n, start in enumerate(starts):
        moment, late = start, n - (count - recent)
        way = WAYS[n % len(WAYS)] if late < 0 else RECENT_WAYS[late % len(RECENT_WAYS)]
        disputed = "dispute" in way
        for step in ("file", *way):
            if step == "close" and not disputed:  # when the reporter can no longer dispute
                moment = store.calendar.due(moment, days)[0] + datetime.timedelta(
                    hours=draw.choice([9, 10, 13])
                )
            elif step != "file":
                long = step in ("rectify", "verify")
                moment += datetime.timedelta(
                    hours=draw.choice([4, 20, 30, 60]) if long else draw.choice([1, 2, 5])
                )
            steps.append((moment, n, step))
    return sorted(step for step in steps if step[0] <= now)


def _midnight(moment: datetime.datetime) -> datetime.datetime:
    """The end of the day in China."""
    day = moment.astimezone(sheets.CHINA).date() + datetime.timedelta(days=1)
    return datetime.datetime.combine(day, datetime.time(second=1), sheets.CHINA).astimezone(datetime.UTC)


def _ring(store: Any, clock: "_Clock", moment: datetime.datetime) -> None:
    """Lets everything ring that is overdue."""
    clock.now = moment
    while timers.ring(store, moment):
        pass


class _Clock:
    now = resources.utcnow()


class _County:
    """Takes one step of one report, as the person whose part it is."""

    def __init__(self, chain: Any, clock: _Clock, photo: Any) -> None:
        self._chain, self._clock, self._photo = chain, clock, photo
        self.names: dict[int, str] = {}
        self._stopped: set[int] = set()
        self._towns = itertools.cycle(TOWNS)

    def take(self, n: int, step: str, draw: random.Random) -> None:
        if n in self._stopped:
            return
        if step == "file":
            self.names[n] = self._file(n, draw)
            return
        person, request = self._request(n, step)
        if request is None:
            self._stopped.add(n)
            return
        self._perform(person, request)

    def _file(self, n: int, draw: random.Random) -> str:
        town, category = next(self._towns), draw.choice(list(MATTERS))
        report = pb.Report(
            category=category,  # type: ignore[arg-type]
            description=draw.choice(MATTERS[category]),
            division=f"{town}{draw.randint(200, 212)}",
            location={"latitude": draw.uniform(28.9, 29.5), "longitude": draw.uniform(114.5, 115.5)},  # type: ignore[arg-type]
        )
        if n % 3:
            report.contact.person_name = draw.choice(SURNAMES) + draw.choice(GIVEN)
            report.contact.phone = f"1380000{draw.randint(0, 9999):04d}"
        request = pb.FileReportRequest(parent="regions/360423", report=report)
        return str(self._perform(_person(f"resident-{n % 40}", "CZ"), request).name)

    def _request(self, n: int, step: str) -> tuple[identity.Caller, Any]:
        name = self.names[n]
        officer, resident = _person("officer-1", "KA", COUNTY_UNIT), _person(f"resident-{n % 40}", "CZ")
        village = n % 2 == 0
        unit = VILLAGE_UNIT if village else TOWN_UNIT
        handler = _person("cadre-1", "VO", unit) if village else _person("clerk-1", "TO", unit)
        passed, failed = pb.VerifyReportRequest.RESULT_PASSED, pb.VerifyReportRequest.RESULT_FAILED
        level = level_pb2.LEVEL_VILLAGE if village else level_pb2.LEVEL_TOWNSHIP
        original = self.names.get(n - 1, "")
        requests: dict[str, tuple[identity.Caller, Any]] = {
            "accept": (officer, pb.AcceptReportRequest(name=name)),
            "reject": (officer, pb.RejectReportRequest(name=name, reason="不属于人居环境事项")),
            "duplicate": (officer, pb.MarkReportDuplicateRequest(name=name, duplicate_of=original)),
            "assign": (officer, pb.AssignReportRequest(name=name, level=level, unit=unit)),
            "return": (handler, pb.ReturnReportRequest(name=name, reason="不在本单位管辖范围")),
            "start": (handler, pb.StartReportRequest(name=name)),
            "rectify": (handler, pb.RectifyReportRequest(name=name, evidence=[self._photo])),
            "verify": (officer, pb.VerifyReportRequest(name=name, result=passed)),
            "fail": (officer, pb.VerifyReportRequest(name=name, result=failed, reason="现场仍有垃圾")),
            "feedback": (officer, pb.SendReportFeedbackRequest(name=name, feedback="已整改，感谢监督")),
            "dispute": (resident, pb.DisputeReportRequest(name=name, reason="问题又出现了")),
            "close": (officer, pb.CloseReportRequest(name=name)),
            "assess": (officer, pb.AssessReportRequest(name=name, score=60 + n % 40)),
            "withdraw": (resident, pb.WithdrawReportRequest(name=name)),
        }
        if step == "duplicate" and not original:
            return officer, None
        return requests[step]

    def _perform(self, person: identity.Caller, request: Any) -> Any:
        return self._chain.perform(request, rpc.Asking(self._clock.now, "", person))


def _ask(
    county: _County,
    clock: _Clock,
    now: datetime.datetime,
    role: str,
    request: Any,
    *,
    subject: str = "officer-1",
    unit: str = COUNTY_UNIT,
    ago: datetime.timedelta = datetime.timedelta(),
) -> Any:
    """Asks as somebody of the county, so long before `now`."""
    clock.now = now - ago
    shapes.check(request)
    return county._perform(_person(subject, role, unit), request)


def _person(subject: str, role: str, unit: str = "") -> identity.Caller:
    return identity.Caller(subject, frozenset({role}), "360423", unit, "https://sample.invalid")
