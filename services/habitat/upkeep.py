"""What is kept up for good, by whom, how it is checked and scored (长效管护, H-10). A score is a weighted
mean of checks by a stated formula; the person sees it, may object, and a human decides (V-9)."""

import datetime
import decimal
from collections.abc import Iterable, Mapping, Sequence

from mesh import calls, errors, flows, records, resources
from services.habitat import limits, tables
from services.habitat.figures import Figure
from village.habitat.v1 import upkeep_pb2 as pb
from village.habitat.v1.limit_policy_pb2 import LimitPolicy
from village.habitat.v1.upkeep_pb2 import Asset, Check, Keeper, KeeperScore, Roster, ScorePeriod

LIMITS: dict[str, limits.Limits] = {
    "scorePeriods": {"check": 5, "compute": 10, "object": 5},
    "keeperScores": {"object": 5},
}
"""Working days; of a period "object" says how long keepers have to object before it may be published. Local
values, not from a standard."""
IN_CHARGE = frozenset({"KA", "KI", "TO", "VO"})


class AssetKeptAlready(errors.Refused):
    en = "{asset} is kept up by {keeper}"
    zh = "该管护对象已有管护员"


class AssetKeptByNobody(errors.Refused):
    en = "nobody keeps {asset} up"
    zh = "该管护对象尚未落实管护员"


class CheckedByKeeper(errors.Refused):
    en = "who keeps {asset} up does not check it"
    zh = "管护员不得检查本人管护的对象"


class ObjectionUndecided(errors.Refused):
    en = "{count} objections in {name} are not decided"
    zh = "尚有异议未复核，不能公布"


class ObjectionStillPossible(errors.Refused):
    en = "keepers may object until {until}"
    zh = "异议期未满，不能公布"


class ObjectionTooLate(errors.Refused):
    en = "the days to object to scores of {name} are over"
    zh = "异议期已过"


# rules


def weighted_mean(
    scores: Mapping[int, Sequence[int]], weights: Mapping[int, int]
) -> tuple[float, list[KeeperScore.Part]]:
    """The mean of each kind's checks, weighted; kinds without a check are left out. To one decimal, halves
    up."""
    parts, total, whole = [], decimal.Decimal(0), 0
    for kind, found in sorted(scores.items()):
        mean = decimal.Decimal(sum(found)) / len(found)
        total, whole = total + mean * weights[kind], whole + weights[kind]
        parts.append(
            KeeperScore.Part(
                kind=kind,  # type: ignore[arg-type]
                percent=weights[kind],
                check_count=len(found),
                mean=float(mean),
            )
        )
    return float((total / whole).quantize(decimal.Decimal("0.1"), decimal.ROUND_HALF_UP)), parts


def by_keeper(
    rows: Iterable[tuple[str, int, int]], weights: Mapping[int, int]
) -> dict[str, dict[int, list[int]]]:
    """Keeper → kind → scores, of the kinds that the formula names."""
    found: dict[str, dict[int, list[int]]] = {}
    for keeper, kind, score in rows:
        if kind in weights:
            found.setdefault(keeper, {}).setdefault(kind, []).append(score)
    return found


def objection_until(period: ScorePeriod, around: flows.Circumstances) -> datetime.datetime:
    days = limits.after("object")(around.policy, period)
    return around.calendar.due(resources.moment(period.score_time), days)[0]


def objection_over(period: ScorePeriod, around: flows.Circumstances) -> None:
    """Until then it is objected to and not published, afterwards the other way round: the two never meet."""
    until = objection_until(period, around)
    if around.now <= until:
        raise ObjectionStillPossible(until=until.isoformat())


def own(score: KeeperScore, call: calls.Call) -> bool:
    """Whether it is the caller's."""
    return bool(score.account) and score.account == call.caller.subject


# the flows

_R, _P, _K = Roster.State, ScorePeriod.State, KeeperScore.State
ROSTER_FLOW = flows.Flow(
    resource=Roster,
    actions={
        "create": flows.Action(target=_R.STATE_IN_FORCE, event=pb.RosterCreated),
        "end": flows.Action(
            sources=frozenset({_R.STATE_IN_FORCE}), target=_R.STATE_ENDED, event=pb.RosterEnded
        ),
    },
)
PERIOD_FLOW = flows.Flow(
    resource=ScorePeriod,
    policy=LimitPolicy,
    escalate_after=limits.escalate_after,
    actions={
        "open": flows.Action(target=_P.STATE_OPEN, event=pb.ScorePeriodOpened),
        "check": flows.Action(
            sources=frozenset({_P.STATE_OPEN}), target=_P.STATE_CHECKED, event=pb.ScorePeriodChecked,
            limit=limits.after("check"),
        ),
        "compute": flows.Action(
            sources=frozenset({_P.STATE_CHECKED}), target=_P.STATE_SCORED, event=pb.ScorePeriodScored,
            limit=limits.after("compute"),
        ),
        "publish": flows.Action(
            sources=frozenset({_P.STATE_SCORED}), target=_P.STATE_PUBLISHED, event=pb.ScorePeriodPublished,
            guards=(objection_over,),
        ),
        flows.ESCALATE: flows.Action(event=pb.ScorePeriodEscalated, keeps_clock=True),
        flows.RECOUNT: flows.Action(event=pb.ScorePeriodRecounted, keeps_clock=True),
    },
)  # fmt: skip
SCORE_FLOW = flows.Flow(
    resource=KeeperScore,
    policy=LimitPolicy,
    escalate_after=limits.escalate_after,
    actions={
        "compute": flows.Action(target=_K.STATE_COMPUTED, event=pb.KeeperScoreComputed),
        "object": flows.Action(
            sources=frozenset({_K.STATE_COMPUTED}), target=_K.STATE_OBJECTED, event=pb.KeeperScoreObjected,
            limit=limits.after("object"),
        ),
        "decide": flows.Action(
            sources=frozenset({_K.STATE_OBJECTED}), target=_K.STATE_DECIDED, event=pb.KeeperScoreDecided
        ),
        flows.ESCALATE: flows.Action(event=pb.KeeperScoreEscalated, keeps_clock=True),
        flows.RECOUNT: flows.Action(event=pb.KeeperScoreRecounted, keeps_clock=True),
    },
)  # fmt: skip


# rosters and checks


def create_roster(request: pb.CreateRosterRequest, call: calls.Call) -> Roster:
    roster = request.roster
    keeper = call.find(Keeper, roster.keeper)
    if keeper is None or resources.region_in(keeper.name) != resources.region_in(request.parent):
        raise errors.Invalid("roster.keeper", "is not a keeper of that region")
    roster.division = keeper.division
    roster.start_time.CopyFrom(resources.stamp(call.now))
    created = call.file(roster, parent=request.parent, wanted=request.roster_id)
    for name in roster.assets:
        asset = call.find(Asset, name)
        if asset is None or asset.division != keeper.division:
            raise errors.Invalid("roster.assets", f"{name} is not an asset of the keeper's village")
        if asset.keeper:
            raise AssetKeptAlready(asset=name, keeper=asset.keeper)
        asset.keeper = keeper.name
        call.save(asset, pb.AssetAssigned)
    return created


def end_roster(request: pb.EndRosterRequest, call: calls.Call) -> Roster:
    roster = call.load(Roster, request.name)
    roster.end_time.CopyFrom(resources.stamp(call.now))
    ended = call.take(roster, "end", reason=request.reason)
    for name in roster.assets:
        asset = call.find(Asset, name)
        if asset is not None:
            asset.ClearField("keeper")
            call.save(asset, pb.AssetReleased)
    return ended


def create_check(request: pb.CreateCheckRequest, call: calls.Call) -> Check:
    check = request.check
    asset = call.find(Asset, check.asset)
    if asset is None or resources.region_in(asset.name) != resources.region_in(request.parent):
        raise errors.Invalid("check.asset", "is not an asset of that region")
    keeper = call.find(Keeper, asset.keeper) if asset.keeper else None
    if keeper is None:
        raise AssetKeptByNobody(asset=asset.name)
    if keeper.account == call.caller.subject:
        raise CheckedByKeeper(asset=asset.name)
    call.rely_on(asset)
    check.keeper, check.kind, check.division = keeper.name, asset.kind, asset.division
    check.checker = call.reference
    check.check_time.CopyFrom(resources.stamp(call.now))
    return call.create(check, parent=request.parent, event=pb.CheckCreated, wanted=request.check_id)


# scores


def open_score_period(request: pb.OpenScorePeriodRequest, call: calls.Call) -> ScorePeriod:
    period = request.score_period
    if resources.moment(period.end_time) <= resources.moment(period.start_time):
        raise errors.Invalid("score_period.end_time", "does not lie after the start")
    if len({weight.kind for weight in period.weights}) != len(period.weights):
        raise errors.Invalid("score_period.weights", "names a kind twice")
    if sum(weight.percent for weight in period.weights) != 100:
        raise errors.Invalid("score_period.weights", "does not make 100 percent")
    policy = limits.in_force(call, request.parent, "scorePeriods")
    return call.file(period, parent=request.parent, policy=policy, wanted=request.score_period_id)


def check_score_period(request: pb.CheckScorePeriodRequest, call: calls.Call) -> ScorePeriod:
    return call.take(call.load(ScorePeriod, request.name), "check", reason=request.reason)


def compute_score_period(request: pb.ComputeScorePeriodRequest, call: calls.Call) -> ScorePeriod:
    period = call.load(ScorePeriod, request.name)
    weights = {weight.kind: weight.percent for weight in period.weights}
    found = by_keeper(tables.check_scores(call, period), weights)
    enough = {
        keeper: scores
        for keeper, scores in found.items()
        if sum(map(len, scores.values())) >= period.minimum_checks
    }
    period.keeper_count, period.scored_count = len(found), len(enough)
    period.score_time.CopyFrom(resources.stamp(call.now))
    for keeper, scores in sorted(enough.items()):
        _score(period, keeper, scores, weights, call)
    return call.take(period, "compute", reason=request.reason)


def _score(
    period: ScorePeriod,
    keeper: str,
    scores: Mapping[int, Sequence[int]],
    weights: Mapping[int, int],
    call: calls.Call,
) -> None:
    of = call.find(Keeper, keeper)
    assert of is not None  # nothing deletes one
    mean, parts = weighted_mean(scores, weights)
    made = KeeperScore(
        score_period=period.name, keeper=keeper, division=of.division, account=of.account, score=mean,
        final_score=mean, parts=parts, formula_version=period.formula_version,
        check_count=sum(map(len, scores.values())), scorer=call.reference,
    )  # fmt: skip
    parent = f"regions/{resources.region_in(period.name)}"
    call.file(made, parent=parent, policy=limits.in_force(call, parent, "keeperScores"))


def publish_score_period(request: pb.PublishScorePeriodRequest, call: calls.Call) -> ScorePeriod:
    period = call.load(ScorePeriod, request.name)
    if waiting := tables.objections_undecided(call, period.name):
        raise ObjectionUndecided(name=period.name, count=str(waiting))
    return call.take(period, "publish", reason=request.reason)


def get_keeper_score(request: pb.GetKeeperScoreRequest, call: calls.Call) -> KeeperScore:
    score = call.load(KeeperScore, request.name)
    if not IN_CHARGE & call.caller.roles and not own(score, call):
        raise errors.Forbidden(method=call.method.name, why="it is another keeper's score")
    return score


def list_keeper_scores(request: pb.ListKeeperScoresRequest, call: calls.Call) -> pb.ListKeeperScoresResponse:
    if not IN_CHARGE & call.caller.roles:
        subject = call.caller.subject.replace("\\", "\\\\").replace('"', '\\"')
        also = f" AND ({request.filter})" if request.filter.strip() else ""
        request.filter = f'account = "{subject}"{also}'
    return call.page(KeeperScore, request, pb.ListKeeperScoresResponse)


def object_to_keeper_score(request: pb.ObjectToKeeperScoreRequest, call: calls.Call) -> KeeperScore:
    score = call.load(KeeperScore, request.name)
    if not own(score, call):
        raise errors.Forbidden(method=call.method.name, why="it is another keeper's score")
    period = call.find(ScorePeriod, score.score_period)
    assert period is not None  # nothing deletes one
    if call.now > objection_until(period, call.around(call.policy(period))):
        raise ObjectionTooLate(name=period.name)
    call.rely_on(period)
    score.objection = request.objection
    return call.take(score, "object", reason=request.reason)


def decide_keeper_score(request: pb.DecideKeeperScoreRequest, call: calls.Call) -> KeeperScore:
    score = call.load(KeeperScore, request.name)
    score.decision, score.decider = request.decision, call.reference
    if request.HasField("score"):
        score.final_score = request.score
    return call.take(score, "decide", reason=request.reason)


RESOURCES = (Asset, Keeper, Roster, Check, ScorePeriod, KeeperScore)
FLOWS = (ROSTER_FLOW, PERIOD_FLOW, SCORE_FLOW)
FIGURES = (
    Figure("H-10.1", "管护覆盖率", Asset, part="keeper:*"),
    Figure("H-10.2", "平均得分", KeeperScore, part_sum="final_score", unit="分"),
    Figure(
        "H-10.3", "考核覆盖率", ScorePeriod, part_sum="scored_count", whole_sum="keeper_count"
    ),
)  # fmt: skip
HANDLERS = {
    **records.handlers(pb, Asset, created=pb.AssetCreated, changed=pb.AssetChanged),
    **records.handlers(pb, Keeper, created=pb.KeeperCreated, changed=pb.KeeperChanged),
    **records.handlers(pb, Roster),
    **records.handlers(pb, Check),
    **records.handlers(pb, ScorePeriod),
    "CreateRoster": create_roster,
    "EndRoster": end_roster,
    "CreateCheck": create_check,
    "OpenScorePeriod": open_score_period,
    "CheckScorePeriod": check_score_period,
    "ComputeScorePeriod": compute_score_period,
    "PublishScorePeriod": publish_score_period,
    "GetKeeperScore": get_keeper_score,
    "ListKeeperScores": list_keeper_scores,
    "ObjectToKeeperScore": object_to_keeper_score,
    "DecideKeeperScore": decide_keeper_score,
}
