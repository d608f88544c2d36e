"""The trial domain: its protos compiled, its handlers, its database; opened as a county's is."""

import atexit
import datetime
import functools
import importlib
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Any

import google.api
import grpc_tools

from mesh import calls, database, errors, flows, migrations, reactions, runtime, store
from protos.generate import validate_descriptor

ROOT = pathlib.Path(__file__).resolve().parents[2]
PARENT = "regions/360423"


class OutOfStock(errors.Refused):
    en = "only {left} are left"
    zh = "库存不足"


class NobodyOnDuty(errors.Refused):
    en = "somebody has to be on duty"
    zh = "至少一人值班"


@functools.cache
def folder() -> pathlib.Path:
    """Where the trial's code and migrations lie; made once, gone at the end."""
    out = pathlib.Path(tempfile.mkdtemp(prefix="trial-"))
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    protos = out / "protos/village/trial/v1"
    shutil.copytree(ROOT / "tests/trial/protos/village/trial/v1", protos)
    foundation = (ROOT / "protos/village/habitat/v1/foundation.proto").read_text()
    (protos / "foundation.proto").write_text(foundation.replace("habitat", "trial"))
    (out / "imported.binpb").write_bytes(validate_descriptor())
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={out / 'imported.binpb'}"),
            f"-I{out / 'protos'}",
            f"-I{ROOT / 'protos'}",
            f"-I{pathlib.Path(google.api.__path__[0]).parent.parent}",
            f"-I{pathlib.Path(grpc_tools.__path__[0]) / '_proto'}",
            f"--python_out={out}",
            "village/trial/v1/trial.proto",
            "village/trial/v1/foundation.proto",
        ],
        check=True,
    )
    sys.path.append(str(out))
    return out


@functools.cache
def messages() -> Any:
    """The module of the trial's messages."""
    folder()
    return importlib.import_module("village.trial.v1.trial_pb2")


# handlers


def put_stock(request: Any, call: calls.Call) -> Any:
    pb = messages()
    return call.create(request.stock, parent=request.parent, event=pb.StockPut, wanted=request.stock_id)


def update_stock(request: Any, call: calls.Call) -> Any:
    request.stock.name = request.name
    return call.update(request.stock, request.update_mask, messages().StockPut)


def take_stock(request: Any, call: calls.Call) -> Any:
    stock = call.load(messages().Stock, request.name)
    if stock.quantity < request.quantity:
        raise OutOfStock(left=str(stock.quantity))
    stock.quantity -= request.quantity
    return call.save(stock, messages().StockTaken)


def cast_vote(request: Any, call: calls.Call) -> Any:
    request.vote.voter = call.reference
    return call.create(request.vote, parent=request.parent, event=messages().VoteCast)


def transfer(request: Any, call: calls.Call) -> Any:
    pb = messages()
    debit, credit = call.load(pb.Account, request.debit), call.load(pb.Account, request.credit)
    if debit.balance < request.amount:
        raise OutOfStock(left=str(debit.balance))
    debit.balance -= request.amount
    credit.balance += request.amount
    call.save(debit, pb.AccountChanged)
    call.save(credit, pb.AccountChanged)
    entry = pb.Entry(debit=request.debit, credit=request.credit, amount=request.amount)
    return call.create(entry, parent=request.parent, event=pb.EntryPosted)


def go_off_duty(request: Any, call: calls.Call) -> Any:
    """Only while the other is on duty: what it relies on, it does not change."""
    pb = messages()
    own, other = call.load(pb.Duty, request.name), call.find(pb.Duty, request.other)
    if not other.on:
        raise NobodyOnDuty
    call.rely_on(other)
    own.on = False
    return call.save(own, pb.DutyChanged)


def put_person(request: Any, call: calls.Call) -> Any:
    return call.create(request.person, parent=request.parent, event=messages().PersonPut)


def list_people(request: Any, call: calls.Call) -> Any:
    return call.page(messages().Person, request, messages().ListPeopleResponse)


def reveal_person(request: Any, call: calls.Call) -> Any:
    person = call.load(messages().Person, request.name)
    call.disclose(person)
    return person


def open_case(request: Any, call: calls.Call) -> Any:
    policy = call.store.policy(messages().CasePolicy, f"{PARENT}/casePolicies/default")
    return call.file(request.case, parent=request.parent, policy=policy)


def act_on_case(request: Any, call: calls.Call) -> Any:
    case = call.load(messages().Case, request.name)
    case.evidence.extend(request.evidence)
    return call.take(case, request.action, cause=request.cause)


@functools.cache
def flow() -> flows.Flow:
    """OPEN → DONE with evidence, or DROPPED; its clock stops for two causes and may be extended once."""
    pb = messages()
    state = pb.Case.State

    def limit(policy: Any, case: Any) -> Any:
        return datetime.timedelta(hours=policy.days) if case.natural else int(policy.days)

    under_way = frozenset({state.STATE_OPEN, state.STATE_AGAIN})
    return flows.Flow(
        resource=pb.Case, policy=pb.CasePolicy, escalate_after=lambda _: 1,
        actions={
            "open": flows.Action(target=state.STATE_OPEN, event=pb.CaseMoved, limit=limit),
            "finish": flows.Action(
                sources=under_way, target=state.STATE_DONE, event=pb.CaseMoved, needs=("evidence",)
            ),
            "drop": flows.Action(sources=under_way, target=state.STATE_DROPPED, event=pb.CaseMoved),
            "reopen": flows.Action(
                sources=frozenset({state.STATE_DONE}), target=state.STATE_AGAIN, event=pb.CaseMoved,
                limit=limit,
            ),
            "stop": flows.Action(
                sources=under_way, event=pb.CaseMoved, stops=frozenset({"appraisal", "rain"}),
                keeps_clock=True,
            ),
            "resume": flows.Action(sources=under_way, event=pb.CaseMoved, resumes=True),
            "extend": flows.Action(
                sources=under_way, event=pb.CaseMoved,
                extends=lambda policy, case: (
                    datetime.timedelta(hours=policy.more_days) if case.natural else int(policy.more_days)
                ),
            ),
            flows.ESCALATE: flows.Action(event=pb.CaseMoved, keeps_clock=True),
            flows.RECOUNT: flows.Action(event=pb.CaseMoved, keeps_clock=True),
        },
    )  # fmt: skip


def seed(call: calls.Call) -> None:
    pb = messages()
    if call.find(pb.CasePolicy, f"{PARENT}/casePolicies/default") is not None:
        return
    put = functools.partial(call.create, parent=PARENT)
    put(pb.CasePolicy(days=3, more_days=2), event=pb.CasePolicyPut, wanted="default")
    for name, balance in (("a", 100), ("b", 100), ("c", 0)):
        put(pb.Account(balance=balance), event=pb.AccountChanged, wanted=name)
    for name in ("one", "two"):
        put(pb.Duty(on=True), event=pb.DutyChanged, wanted=name)


def count_taken(event: Any, call: calls.Call) -> None:
    """A reaction: what is taken from a stock is noted in another, named after the first."""
    pb = messages()
    if event.stock.title == "poison":
        raise ValueError("a fault of the handler")
    name = f"{PARENT}/stocks/taken-{event.stock.name.rpartition('/')[2]}"
    noted = call.find(pb.Stock, name)
    if noted is None:
        call.create(
            pb.Stock(quantity=1, title="noted"),
            parent=PARENT,
            event=pb.StockPut,
            wanted=name.rpartition("/")[2],
        )
        return
    noted.quantity += 1
    call.save(noted, pb.StockPut)


@functools.cache
def service() -> runtime.Service:
    pb = messages()
    found = runtime.Service(
        domain="trial",
        package="village.trial.v1",
        resources=(pb.Stock, pb.Vote, pb.Account, pb.Entry, pb.Duty, pb.Person, pb.Case, pb.CasePolicy),
        lifecycles=(flow(),),
        handlers={
            "PutStock": put_stock, "UpdateStock": update_stock, "TakeStock": take_stock,
            "CastVote": cast_vote, "Transfer": transfer, "GoOffDuty": go_off_duty,
            "PutPerson": put_person, "ListPeople": list_people, "RevealPerson": reveal_person,
            "OpenCase": open_case, "ActOnCase": act_on_case,
        },
        reacts=(reactions.Reaction("count_taken", "village.*.*.*.trial.stock.taken", count_taken),),
        seed=seed,
        migrations=folder() / "migrations",
    )  # fmt: skip
    assert found.migrations is not None
    found.migrations.mkdir()
    opened = database.Database(f"sqlite:///{folder()}/revise.db", threads=1)
    migrations.generate(opened, store.schema(found.resources).metadata, found.migrations, "trial")
    opened.close()
    return found
