"""All of habitat, over the wire and with its broker: nothing is found, and all is checked that can be."""

from conform import notes, rules, run, target
from tests.conform.served import Served
from tests.county import REGION


def test_habitat_keeps_every_rule(served: Served) -> None:
    found = run.run(
        run.Plan(
            target=target.Target(served.address), region=REGION, tokens=served.tokens, write=True,
            nats=served.broker.url,
        )
    )  # fmt: skip
    assert [str(note) for note in found.of(notes.FAILED)] == []
    passed = [note.rule.name for note in found.of(notes.PASSED)]
    never = {rule.name for rule in rules.RULES} - set(passed)
    assert never == {"comments", "told"}, "a server of Python tells no comments, a single node not who serves"
    least = {
        "create": 80, "request-id": 40, "etag": 60, "page-walk": 30, "validation": 1900, "event-sent": 35
    }  # fmt: skip
    assert {name: passed.count(name) for name, count in least.items() if passed.count(name) < count} == {}
