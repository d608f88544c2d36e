"""What came of a run: for each rule and place passed, failed or not run, with what a person needs to act
on it. Separate from the checks, which only say what they saw."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from xml.etree import ElementTree

from conform import rules

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"
_WEIGHT = {NOT_RUN: 0, PASSED: 1, FAILED: 2}
LONGEST = 400


@dataclasses.dataclass(frozen=True)
class Note:
    """One rule at one place: a method, a message, a field. `came`: what came, or why it was not run."""

    rule: rules.Rule
    where: str
    result: str
    sent: str = ""
    came: str = ""

    def __str__(self) -> str:
        lines = [f"FAILED  {self.rule.name}  {self.where}"]
        if self.sent:
            lines.append(f"  sent  {_short(self.sent)}")
        lines.append(f"  came  {_short(self.came)}")
        lines.append(f"  rule  {self.rule.demands} ({self.rule.stands})")
        lines.append(f"  mend  {self.rule.mend}")
        return "\n".join(lines)


class Notes:
    """The notes of a run. A place that failed once has failed; one that passed once was run."""

    def __init__(self, only: frozenset[str] = frozenset()) -> None:
        self._only = only
        self._kept: dict[tuple[str, str], Note] = {}

    def wants(self, *names: str) -> bool:
        """Whether any of these rules is to be checked."""
        return not self._only or not self._only.isdisjoint(names)

    def passed(self, rule: str, where: str) -> None:
        self._add(rule, where, PASSED)

    def failed(self, rule: str, where: str, *, sent: object = "", came: object) -> None:
        self._add(rule, where, FAILED, sent, came)

    def not_run(self, rule: str, where: str, why: str) -> None:
        self._add(rule, where, NOT_RUN, "", why)

    def expect(self, holds: bool, rule: str, where: str, *, sent: object = "", came: object) -> bool:
        """Passed or failed. `sent` and `came` are made text of when it failed only."""
        self._add(rule, where, PASSED if holds else FAILED, sent, came)
        return holds

    def _add(self, rule: str, where: str, result: str, sent: object = "", came: object = "") -> None:
        if not self.wants(rule):
            return
        before = self._kept.get((rule, where))
        if before is None or _WEIGHT[before.result] < _WEIGHT[result]:
            said = ("", "") if result == PASSED else (str(sent), str(came))
            self._kept[rule, where] = Note(rules.BY_NAME[rule], where, result, *said)

    def __iter__(self) -> Iterator[Note]:
        return iter(self._kept.values())

    @property
    def failed_any(self) -> bool:
        return any(note.result == FAILED for note in self)

    def of(self, result: str) -> list[Note]:
        """Those of one result, by rule and place."""
        order = {rule.name: n for n, rule in enumerate(rules.RULES)}
        found = (note for note in self if note.result == result)
        return sorted(found, key=lambda note: (order[note.rule.name], note.where))

    def text(self) -> str:
        """Findings first, then what was not run and why, then how many of each."""
        parts = [str(note) for note in self.of(FAILED)]
        if skipped := self._skipped():
            parts.append("\n".join(skipped))
        count = Counter(note.result for note in self)
        parts.append(f"{count[PASSED]} passed, {count[FAILED]} failed, {count[NOT_RUN]} not run")
        return "\n\n".join(parts)

    def _skipped(self) -> list[str]:
        """A line for each reason why something was not run: of which rules, and where."""
        places: dict[tuple[str, str], list[str]] = {}
        for note in self.of(NOT_RUN):
            places.setdefault((note.where, note.came), []).append(note.rule.name)
        grouped: dict[tuple[str, str], list[str]] = {}
        for (where, why), names in places.items():
            grouped.setdefault((", ".join(names), why), []).append(where)
        return [
            f"not run  {names}  {wheres[0] if len(wheres) == 1 else f'{len(wheres)} places'}: {_short(why)}"
            for (names, why), wheres in grouped.items()
        ]

    def junit(self, title: str) -> bytes:
        """The same as JUnit XML: a suite for each rule, a case for each place."""
        root = ElementTree.Element("testsuites", name=_plain(title))
        for rule in rules.RULES:
            of_rule = [note for note in self if note.rule is rule]
            if not of_rule:
                continue
            count = Counter(note.result for note in of_rule)
            suite = ElementTree.SubElement(root, "testsuite", name=rule.name)
            for name, number in (("tests", len(of_rule)), ("failures", count[FAILED]),
                                 ("skipped", count[NOT_RUN]), ("errors", 0)):  # fmt: skip
                suite.set(name, str(number))
            for note in of_rule:
                case = ElementTree.SubElement(suite, "testcase", classname=rule.name, name=_plain(note.where))
                if note.result == FAILED:
                    element = ElementTree.SubElement(
                        case, "failure", message=_plain(note.came), type=rule.name
                    )
                    element.text = _plain(str(note))
                elif note.result == NOT_RUN:
                    ElementTree.SubElement(case, "skipped", message=_plain(note.came))
        ElementTree.indent(root)
        return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= LONGEST else f"{flat[:LONGEST]} …"


def _plain(text: str) -> str:
    """Without the characters that XML does not take."""
    return "".join(
        c if c in "\t\n" or (" " <= c < "\ufffe" and not "\ud800" <= c <= "\udfff") else "?" for c in text
    )
