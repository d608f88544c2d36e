"""Every kind of personal data (I7): hidden at rest and in logs, masked in answers and events,
found by equality, revealed one at a time; on both databases."""

import logging
import pathlib
from typing import Any

import pytest

from mesh import errors, keys, telemetry
from tests.county import County
from tests.loop import rows
from tests.trial import domain
from tests.trial.domain import PARENT

PERSON: dict[str, Any] = {
    "person_name": "欧阳娜娜", "id_number": "36042319900101771X", "phone": "13877417741",
    "address": "江西省九江市武宁县新宁镇柿树下路7741号", "bank_account": "6222027741774177410",
    "location": {"latitude": 29.261234, "longitude": 115.107741}, "remark": "左邻7741号住户反映",
}  # fmt: skip
PLANTED = ["欧阳娜娜", "36042319900101771X", "13877417741", "柿树下路7741号", "6222027741774177410",
           "115.107741", "左邻7741号"]  # fmt: skip


def put(trial: County, **more: Any) -> Any:
    pb = domain.messages()
    return trial.call("county", pb.PutPersonRequest(parent=PARENT, person={**PERSON, **more}))


def found(text: bytes) -> list[str]:
    return [p for p in PLANTED if p.encode() in text or p.encode("unicode_escape") in text]


def test_is_masked_in_answers(trial: County) -> None:
    answer = put(trial)
    assert (answer.person_name, answer.id_number, answer.phone) == (
        "欧**娜", "360423********771X", "138****7741",
    )  # fmt: skip
    assert answer.address == "江西省九江市武宁县新宁镇****"
    assert answer.bank_account == "**** **** **** 7410"
    assert (answer.location.latitude, answer.location.longitude) == (29.26, 115.11)


def test_is_nowhere_at_rest_nor_in_events_nor_in_logs(
    trial: County, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.setFormatter(telemetry.JsonLines())
    with caplog.at_level(logging.DEBUG):
        person = put(trial)
        asked = domain.messages().ListPeopleRequest(parent=PARENT, filter='phone > "13877417741"')
        with pytest.raises(errors.Refusal):
            trial.call("county", asked)
    trial.hosted.tick()
    for table in ("people", "mesh_outbox", "mesh_audit", "mesh_request"):
        for row in rows(trial, f"SELECT * FROM {table}"):
            whole = b"".join(v if isinstance(v, bytes) else str(v).encode() for v in row)
            assert found(whole) == []
    for path in tmp_path.rglob("*"):
        if path.is_file():  # the database, its write-ahead log, everything else that was written
            assert found(path.read_bytes()) == [], path
    assert found(caplog.text.encode()) == []
    (payload,) = next(iter(rows(trial, "SELECT payload FROM mesh_outbox WHERE type LIKE '%PersonPut'")))
    event = domain.messages().PersonPut.FromString(bytes(payload))
    assert (event.person.person_name, event.person.remark) == ("欧**娜", "")
    assert person.name == event.person.name


@pytest.mark.parametrize(
    ("field", "asked"),
    [("phone", "13877417741"), ("phone", "+86138-7741-7741"), ("id_number", "36042319900101771x")],
)
def test_is_found_by_equality_however_it_is_written(trial: County, field: str, asked: str) -> None:
    person = put(trial)
    put(trial, phone="13811111111", id_number="360423199001010002")
    pb = domain.messages()
    answer = trial.call("county", pb.ListPeopleRequest(parent=PARENT, filter=f'{field} = "{asked}"'))
    assert [p.name for p in answer.people] == [person.name]


def test_has_another_digest_in_every_region(trial: County) -> None:
    codec = trial.store.codec(domain.messages().Person)
    field = codec.resource.shape.field("phone")
    assert codec.search_digest(field, "13877417741", "360423") != codec.search_digest(
        field, "13877417741", "360424"
    )


def test_is_revealed_one_at_a_time_for_a_purpose_that_is_audited(trial: County) -> None:
    pb, person = domain.messages(), put(trial)
    with pytest.raises(errors.Invalid, match="purpose"):
        trial.call("county", pb.RevealPersonRequest(name=person.name))
    revealed = trial.call("county", pb.RevealPersonRequest(name=person.name, purpose="电话回访"))
    assert {k: getattr(revealed, k) for k in PERSON if k != "location"} == {
        k: v for k, v in PERSON.items() if k != "location"
    }
    assert revealed.location.longitude == 115.107741
    (row,) = rows(
        trial,
        "SELECT actor, name, purpose, result FROM mesh_audit WHERE method = 'RevealPerson' AND purpose != ''",
    )
    assert tuple(row) == ("officer-1", person.name, "电话回访", "OK")


def test_stays_readable_when_keys_change_while_it_runs(trial: County) -> None:
    pb, before = domain.messages(), put(trial)
    keys.rotate(trial.settings.key_ring, "SM4-GCM")
    trial.chain.rings.refresh()
    after = put(trial)
    for person in (before, after):
        asked = pb.RevealPersonRequest(name=person.name, purpose="电话回访")
        assert trial.call("county", asked).phone == PERSON["phone"]
    kept = {row[0].partition(":")[0] for row in rows(trial, "SELECT phone FROM people")}
    assert kept == {"k1", "k2"}


def test_of_what_rises_as_counts_only_the_name_leaves(trial: County) -> None:
    pb = domain.messages()
    vote = {"ballot": "b7741", "choice": "yes"}
    trial.call("resident", pb.CastVoteRequest(parent=PARENT, vote=vote))
    (payload,) = next(iter(rows(trial, "SELECT payload FROM mesh_outbox WHERE type LIKE '%VoteCast'")))
    event = pb.VoteCast.FromString(bytes(payload))
    assert (event.vote.ballot, event.vote.voter, event.vote.choice) == ("", "", "")
    assert event.vote.name


def test_of_what_rises_full_free_text_leaves_too(trial: County) -> None:
    pb = domain.messages()
    trial.call("county", pb.PutStockRequest(parent=PARENT, stock={"note": "三号库"}, stock_id="s"))
    (payload,) = next(iter(rows(trial, "SELECT payload FROM mesh_outbox WHERE type LIKE '%StockPut'")))
    assert pb.StockPut.FromString(bytes(payload)).stock.note == "三号库"
