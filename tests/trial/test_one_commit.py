"""One commit over several records, everything relied on guarded: writers that race; on both databases."""

import concurrent.futures
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from mesh import database, errors, statements
from tests.county import County
from tests.loop import execute, rows
from tests.trial import domain
from tests.trial.domain import PARENT

WRITERS = 4


def race(attempts: int, work: Callable[[int], Any]) -> list[Any]:
    """What became of each attempt: the answer, or the refusal."""

    def one(n: int) -> Any:
        try:
            return work(n)
        except errors.Refusal as refusal:
            return refusal

    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(one, range(attempts)))


def patient(work: Callable[[], Any]) -> Any:
    """As a caller does who is told that somebody else was first."""
    for _ in range(50):
        try:
            return work()
        except errors.Conflict:
            continue
    raise AssertionError


def quantity(trial: County, name: str) -> int:
    return int(rows(trial, "SELECT quantity FROM stocks WHERE name = :n", n=name)[0][0])


@pytest.fixture
def stock(trial: County) -> Any:
    pb = domain.messages()
    request = pb.PutStockRequest(parent=PARENT, stock={"quantity": 10}, stock_id="seed")
    return trial.call("county", request)


def test_never_gives_out_more_than_there_is(trial: County, stock: Any) -> None:
    pb = domain.messages()
    request = pb.TakeStockRequest(name=stock.name, quantity=1)
    found = race(25, lambda _: patient(lambda: trial.call("county", request)))
    taken = [f for f in found if not isinstance(f, errors.Refusal)]
    assert len(taken) == 10
    assert {type(f).__name__ for f in found if isinstance(f, errors.Refusal)} == {"OutOfStock"}
    assert quantity(trial, stock.name) == 0
    assert rows(trial, "SELECT count(*) FROM mesh_outbox WHERE type LIKE '%StockTaken'")[0][0] == 10


def test_holds_what_a_check_says_even_when_a_handler_forgets(trial: County, stock: Any) -> None:
    pb = domain.messages()
    bad = pb.UpdateStockRequest(name=stock.name, stock={"quantity": -1}, update_mask={"paths": ["quantity"]})
    with pytest.raises(errors.RuleBroken) as caught:
        trial.call("county", bad)
    assert caught.value.metadata == {"name": stock.name, "rule": "quantity >= 0"}
    assert caught.value.code == errors.FAILED_PRECONDITION
    assert quantity(trial, stock.name) == 10


def test_says_which_rule_a_new_record_breaks_and_not_that_it_exists(trial: County) -> None:
    pb = domain.messages()
    bad = pb.PutStockRequest(
        parent=PARENT, stock={"quantity": -1}, stock_id="s", request_id=str(uuid.uuid4())
    )
    for _ in range(2):
        with pytest.raises(errors.RuleBroken, match="stocks/s would break the rule quantity >= 0"):
            trial.call("county", bad)
    bad.stock.quantity = 1
    assert trial.call("county", bad).quantity == 1


def test_lets_a_call_decide_again_that_broke_a_rule_by_chance(
    trial: County, stock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pb, real, left = domain.messages(), trial.store.commit, [2]

    def commit(what: statements.Commit) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise database.Broken("stocks_check_0")
        real(what)

    monkeypatch.setattr(trial.store, "commit", commit)
    assert trial.call("county", pb.TakeStockRequest(name=stock.name, quantity=1)).quantity == 9


def test_takes_one_vote_of_each(trial: County) -> None:
    pb = domain.messages()
    voters = ["resident", "neighbour", "county"]
    vote = {"ballot": "b1", "choice": "yes"}
    found = race(
        24, lambda n: trial.call(voters[n % 3], pb.CastVoteRequest(parent=PARENT, vote=vote))
    )  # fmt: skip
    assert sum(not isinstance(f, errors.Refusal) for f in found) == 3
    assert {type(f) for f in found if isinstance(f, errors.Refusal)} == {errors.AlreadyExists}
    assert rows(trial, "SELECT count(DISTINCT voter), count(*) FROM votes")[0] == (3, 3)


def test_keeps_a_ledger_balanced(trial: County) -> None:
    pb = domain.messages()

    def move(n: int) -> Any:
        debit, credit = [("a", "b"), ("b", "c"), ("c", "a")][n % 3]
        request = pb.TransferRequest(
            parent=PARENT, debit=f"{PARENT}/accounts/{debit}", credit=f"{PARENT}/accounts/{credit}", amount=30
        )
        return patient(lambda: trial.call("county", request))

    done = [f for f in race(24, move) if not isinstance(f, errors.Refusal)]
    balances = {n[-1]: b for n, b in rows(trial, "SELECT name, balance FROM accounts")}
    entries = rows(trial, "SELECT debit, credit, amount FROM entries")
    assert len(entries) == len(done) > 0
    assert sum(balances.values()) == 200
    assert min(balances.values()) >= 0
    told = {"a": 100, "b": 100, "c": 0}
    for debit, credit, amount in entries:
        told[debit[-1]] -= amount
        told[credit[-1]] += amount
    assert told == balances


def test_leaves_somebody_on_duty(trial: County) -> None:
    """Write skew: each changes only his own row and relies on the other's."""
    pb = domain.messages()
    one, two = f"{PARENT}/duties/one", f"{PARENT}/duties/two"
    for _ in range(5):
        both = [pb.GoOffDutyRequest(name=one, other=two), pb.GoOffDutyRequest(name=two, other=one)]
        race(2, lambda n, asked=both: trial.call("county", asked[n]))  # type: ignore[misc]
        on = {n: bool(o) for n, o in rows(trial, 'SELECT name, "on" FROM duties')}
        assert any(on.values())
        execute(trial, 'UPDATE duties SET "on" = true')


def test_answers_a_repeated_request_once_whoever_comes_first(trial: County, stock: Any) -> None:
    pb = domain.messages()
    request = pb.TakeStockRequest(name=stock.name, quantity=1, request_id=str(uuid.uuid4()))
    found = race(8, lambda _: patient(lambda: trial.call("county", request)))
    assert {f.quantity for f in found} == {9}
    assert quantity(trial, stock.name) == 9


class TestUpdateMask:
    def update(self, trial: County, stock: Any, paths: list[str], **fields: Any) -> Any:
        pb = domain.messages()
        return trial.call(
            "county", pb.UpdateStockRequest(name=stock.name, stock=fields, update_mask={"paths": paths})
        )

    def test_changes_what_it_names_and_nothing_else(self, trial: County, stock: Any) -> None:
        found = self.update(trial, stock, ["title"], title="种子", quantity=99)
        assert (found.title, found.quantity) == ("种子", 10)
        assert self.update(trial, stock, ["title"]).title == ""

    def test_left_out_means_what_is_set(self, trial: County, stock: Any) -> None:
        found = self.update(trial, stock, [], title="种子")
        assert (found.title, found.quantity) == ("种子", 10)

    def test_star_replaces_all_that_a_caller_may_set(self, trial: County, stock: Any) -> None:
        found = self.update(trial, stock, ["*"], title="种子")
        assert (found.title, found.quantity, found.etag) == ("种子", 0, "2")

    @pytest.mark.parametrize("path", ["name", "etag", "none", "title.x"])
    def test_refuses_what_is_not_the_caller_s(self, trial: County, stock: Any, path: str) -> None:
        with pytest.raises(errors.Invalid, match="update_mask"):
            self.update(trial, stock, [path], title="x")

    def test_keeps_to_the_etag(self, trial: County, stock: Any) -> None:
        pb = domain.messages()
        self.update(trial, stock, ["title"], title="一")
        late = pb.UpdateStockRequest(name=stock.name, stock={"title": "二"}, etag=stock.etag)
        with pytest.raises(errors.Conflict):
            trial.call("county", late)
