"""A release binds: each kind of break is planted into a copy of the contract and must be found, and what a
release announced must be read by today's consumers."""

import base64
import datetime
import gzip
import json
import pathlib
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from buf.validate import validate_pb2
from google.api import annotations_pb2, field_behavior_pb2, resource_pb2
from google.protobuf import descriptor_pb2, json_format

from mesh import copies, events, reactions, replication, resources
from protos import check, evolution, images, release, samples
from tests import county as counties
from village.mesh.v1 import link_pb2
from village.options.v1 import options_pb2

H = "village.habitat.v1"
REPORT, FILED, FILE = f"{H}.Report", f"{H}.ReportFiled", f"{H}.FileReportRequest"
SERVICE = f"{H}.ReportService"
TODAY = gzip.decompress(images.read().bare())
VERSIONS = [p.name.removesuffix(".binpb.gz") for p in evolution.RELEASES.glob("*.binpb.gz")]


def image() -> images.Image:
    """A copy of today's contract that may be changed."""
    return images.Image(descriptor_pb2.FileDescriptorSet.FromString(TODAY))


def field(of: images.Image, message: str, name: str) -> Any:
    return next(f for f in of.messages[message].field if f.name == name)


def resource(of: images.Image) -> Any:
    """How a report is declared as a resource."""
    return of.messages[REPORT].options.Extensions[resource_pb2.resource]


def kept(of: images.Image) -> Any:
    """How a report is kept."""
    return of.messages[REPORT].options.Extensions[options_pb2.resource]


def remove(items: Any, name: str) -> None:
    del items[next(n for n, item in enumerate(items) if item.name == name)]


def enum(of: images.Image, message: str, name: str) -> Any:
    return next(e for e in of.messages[message].enum_type if e.name == name)


def service(of: images.Image, name: str) -> Any:
    return next(
        s for f in of.files.file for s in f.service if f"{f.package}.{s.name}" == name
    )  # fmt: skip


def behave(of: Any, behavior: int) -> None:
    of.options.Extensions[field_behavior_pb2.field_behavior].append(behavior)


def access(of: images.Image, method: str) -> Any:
    return of.methods[method][1].options.Extensions[options_pb2.access]


def add(of: images.Image, message: str, name: str, number: int) -> Any:
    return of.messages[message].field.add(name=name, number=number, json_name=name, type=9, label=1)


WIRE: dict[str, tuple[Callable[[images.Image], Any], str]] = {
    "a field is removed": (lambda i: remove(i.messages[REPORT].field, "overdue"), '"overdue"'),
    "a field has another number": (
        lambda i: setattr(field(i, REPORT, "feedback"), "number", 900),
        '"feedback"',
    ),
    "a field has another type": (
        lambda i: setattr(field(i, REPORT, "description"), "type", 12),
        '"description"',
    ),
    "a field is called otherwise in JSON": (
        lambda i: setattr(field(i, REPORT, "handling_unit"), "json_name", "unit"),
        '"handling_unit" on message "Report" changed option "json_name" from "handlingUnit" to "unit"',
    ),
    "a value of an enum is removed": (
        lambda i: remove(enum(i, REPORT, "State").value, "STATE_DUPLICATE"),
        'enum value "3" on enum "State"',
    ),
    "a method is removed": (lambda i: remove(service(i, SERVICE).method, "UrgeReport"), '"UrgeReport"'),
    "an event is removed": (
        lambda i: remove(
            next(f for f in i.files.file if f.name.endswith("habitat/v1/events.proto")).message_type,
            "ReportUrged",
        ),
        '"ReportUrged"',
    ),
}
"""What Protobuf's rules see: how it is planted, and what the answer names."""


def _tighten(of: images.Image) -> None:
    field(of, FILE, "request_id").options.Extensions[validate_pb2.field].string.max_len = 3


def _demand(of: images.Image) -> None:
    add(of, FILE, "purpose", 77).options.Extensions[validate_pb2.field].string.min_len = 1


SAID: dict[str, tuple[Callable[[images.Image], Any], str]] = {
    "an event's verb is another": (
        lambda i: setattr(i.messages[FILED].options.Extensions[options_pb2.event], "verb", "sent"),
        f"{FILED}: the subject ended in 'report filed' and now in 'report sent'",
    ),
    "names have another pattern": (
        lambda i: resource(i).pattern.__setitem__(0, "r/{r}"),
        f"{REPORT}: names were like",
    ),
    "a role may no longer call": (
        lambda i: access(i, f"{SERVICE}.AcceptReport").allow[0].roles.remove(options_pb2.ROLE_TO),
        f"{SERVICE}.AcceptReport: TO may no longer call it as before",
    ),
    "a role reaches less far": (
        lambda i: setattr(
            access(i, f"{SERVICE}.ReopenReport").allow[0], "scope", options_pb2.SCOPE_OWN_REGION
        ),
        f"{SERVICE}.ReopenReport: CI may no longer call it as before",
    ),
    "more leaves the owner": (
        lambda i: setattr(kept(i), "rises", options_pb2.RISES_FULL),
        f"{REPORT}: more than before leaves its owner: RISES_MASKED became RISES_FULL",
    ),
    "less reaches subscribers": (
        lambda i: setattr(kept(i), "rises", options_pb2.RISES_NEVER),
        f"{REPORT}: less reaches subscribers",
    ),
    "personal data is no longer marked": (
        lambda i: field(i, REPORT, "description").options.ClearExtension(options_pb2.field),
        f"{REPORT}.description: personal was 3 and now is 0",
    ),
    "a filter is taken away": (
        lambda i: setattr(
            field(i, REPORT, "overdue").options.Extensions[options_pb2.field], "filterable", False
        ),
        f"{REPORT}.overdue: it is no longer filterable",
    ),
    "values are refused that were not": (
        _tighten, f"{FILE}.request_id: values are refused that were not: string.max_len"
    ),
    "a field becomes required": (
        lambda i: behave(field(i, FILE, "request_id"), field_behavior_pb2.REQUIRED),
        f"{FILE}.request_id: it became required",
    ),
    "a field becomes output only": (
        lambda i: behave(field(i, REPORT, "description"), field_behavior_pb2.OUTPUT_ONLY),
        f"{REPORT}.description: it became output only",
    ),
    "a new field refuses those who do not know it": (_demand, f"{FILE}.purpose: it is new"),
    "a URL is another": (
        lambda i: setattr(
            i.methods[f"{SERVICE}.UrgeReport"][1].options.Extensions[annotations_pb2.http], "post", "/x"
        ),
        f"{SERVICE}.UrgeReport: post /habitat/v1/",
    ),
}  # fmt: skip
"""What only our annotations say."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What is said of a contract with all of WIRE in it."""
    broken, path = image(), tmp_path_factory.mktemp("wire") / "today.binpb"
    for plant, _ in WIRE.values():
        plant(broken)
    path.write_bytes(broken.files.SerializeToString())
    return list(check.broken(path))


class TestBreaks:
    @pytest.mark.parametrize("kind", WIRE)
    def test_of_the_wire_are_refused(self, seen: list[str], kind: str) -> None:
        assert any(line.startswith("0.1.0: ") and WIRE[kind][1] in line for line in seen), seen

    @pytest.mark.parametrize("kind", SAID)
    def test_of_what_is_annotated_are_refused(self, kind: str) -> None:
        plant, said = SAID[kind]
        broken = image()
        plant(broken)
        found = list(evolution.annotated(image(), broken))
        assert [line for line in found if line.startswith(said)], found

    def test_are_none_when_the_contract_only_grows(self) -> None:
        grown = image()
        add(grown, FILE, "note", 77).options.Extensions[validate_pb2.field].string.max_len = 9
        add(grown, REPORT, "weather", 901)
        access(grown, f"{SERVICE}.AcceptReport").allow[0].roles.append(options_pb2.ROLE_PA)
        field(grown, FILE, "request_id").options.ClearExtension(validate_pb2.field)
        assert list(evolution.annotated(image(), grown)) == []

    def test_of_a_release_are_looked_for(self) -> None:
        assert evolution.releases()  # by `make lint`
        assert set(evolution.releases()) <= set(VERSIONS)

    def test_of_a_retired_release_are_none_and_of_an_accepted_kind_neither(
        self, tmp_path: pathlib.Path
    ) -> None:
        folder, path = tmp_path / "releases", tmp_path / "today.binpb"
        shutil.copytree(evolution.RELEASES, folder)
        broken = image()
        WIRE["a field has another type"][0](broken)
        path.write_bytes(broken.files.SerializeToString())
        found = list(check.broken(path, releases=folder, needs=tmp_path))
        assert found
        table, versions = folder / "releases.yaml", [line.partition(": ")[0] for line in found]
        accepted = {line.partition(": ")[2]: "nobody used it" for line in found}
        table.write_text(yaml.safe_dump({v: {"accepted": accepted} for v in versions}))
        assert list(check.broken(path, releases=folder, needs=tmp_path)) == []
        table.write_text(yaml.safe_dump({v: {"retired": datetime.date(2026, 1, 1)} for v in versions}))
        assert list(check.broken(path, releases=folder, needs=tmp_path)) == []


class TestNeeds:
    NEEDS = f"""
        consumer: the ledger of Wuning
        since: 0.1.0
        fields: {{{FILED}: [report.name, report.state, report.description]}}
        methods: {{{SERVICE}.AcceptReport: [TO], {SERVICE}.UrgeReport: [PA]}}
    """

    def missed(
        self, tmp_path: pathlib.Path, *plant: Callable[[images.Image], Any], **other: str
    ) -> list[str]:
        text = "\n".join(line.strip() for line in self.NEEDS.strip().splitlines())
        for part, value in other.items():
            text = text.replace(part, value)
        (tmp_path / "ledger.yaml").write_text(text)
        changed = image()
        for change in plant:
            change(changed)
        changed = images.Image(changed.files)
        return list(check.consumers.missed(changed, tmp_path))

    def test_are_met_today(self, tmp_path: pathlib.Path) -> None:
        assert self.missed(tmp_path) == []
        assert list(evolution.NEEDS.glob("*.yaml"))

    @pytest.mark.parametrize(
        ("plant", "said"),
        [
            (
                lambda i: remove(i.messages[REPORT].field, "description"),
                f"{FILED}.report.description is gone",
            ),
            (
                lambda i: setattr(field(i, REPORT, "description"), "name", "place"),
                f"{FILED}.report.description is called place now",
            ),
            (
                lambda i: setattr(field(i, REPORT, "description"), "number", 903),
                f"{FILED}.report.description has another number: ",
            ),
            (SAID["a field becomes output only"][0], f"{FILED}.report.description became output only"),
            (SAID["an event's verb is another"][0], f"{FILED} was announced as report.filed and now is as "),
            (SAID["a role may no longer call"][0], f"TO may no longer call {SERVICE}.AcceptReport"),
            (WIRE["a method is removed"][0], f"{SERVICE}.UrgeReport is gone"),
        ],
    )
    def test_that_are_not_met_are_named_with_the_consumer(
        self, tmp_path: pathlib.Path, plant: Callable[[images.Image], Any], said: str
    ) -> None:
        assert [line for line in self.missed(tmp_path, plant) if line.startswith(f"ledger: {said}")]

    def test_that_never_were_are_the_file_s_mistake(self, tmp_path: pathlib.Path) -> None:
        (found,) = self.missed(tmp_path, **{"report.description": "report.descripton"})
        assert "never had descripton" in found


@pytest.fixture(scope="module")
def neighbour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[counties.County]:
    """Another county, which has copies of what 360423 announced."""
    folder = tmp_path_factory.mktemp("neighbour")
    found = counties.County(folder, f"sqlite:///{folder}/{{domain}}.db", region="360424")
    yield found
    found.close()


def told(version: str) -> dict[str, tuple[bytes, Any]]:
    """The events of a release: bytes and values."""
    found = json.loads(gzip.decompress(release.examples(version).read_bytes()))
    assert found
    return {name: (base64.b64decode(e["bytes"]), e["value"]) for name, e in found.items()}


def holds(value: Any, part: Any) -> bool:
    """Whether a JSON value has in it all that another says."""
    if isinstance(part, dict):
        return isinstance(value, dict) and all(k in value and holds(value[k], v) for k, v in part.items())
    if isinstance(part, list):
        return isinstance(value, list) and len(value) == len(part) and all(map(holds, value, part))
    return bool(value == part)


@pytest.mark.parametrize("version", VERSIONS)
class TestEventsOfARelease:
    def test_are_read_with_the_same_values(self, version: str) -> None:
        for name, (raw, value) in told(version).items():
            message = events.decode(name, raw)
            assert message is not None, name
            assert holds(json_format.MessageToDict(message), value), name

    def test_are_all_that_it_had(self, version: str) -> None:
        assert set(told(version)) == set(images.read(evolution.frozen(version)).events())

    def test_announced_today_are_read_by_who_knows_only_the_release(self, version: str) -> None:
        old = images.read(evolution.frozen(version))
        for name, example in json.loads(samples.events(images.read())).items():
            if name in old.messages:
                message = old.cls(name).FromString(base64.b64decode(example["bytes"]))
                assert holds(example["value"], json_format.MessageToDict(message)), name

    def test_are_copied(self, version: str, neighbour: counties.County) -> None:
        store, rows = neighbour.store, []
        for name, (raw, value) in told(version).items():
            if name.startswith(f"{H}."):
                about = next(iter(value.values()))["name"]
                time = resources.stamp(neighbour.now)
                rows.append(
                    link_pb2.LogRow(
                        number=len(rows) + 1, event_id=f"e{len(rows)}", type=name, name=about, time=time,
                        subject="village.36.04.23.habitat.a.b", payload=raw,
                    )
                )  # fmt: skip
        answer = link_pb2.PullLogResponse(epoch=1, incarnation=1, high_water=len(rows), floor=1)
        answer.rows = zlib.compress(link_pb2.LogRows(rows=rows).SerializeToString())
        assert copies.Copies(store).apply("360423", "360423", answer) == len(rows)
        outbox = store.plumbing.outbox
        kept = store.database.select(sa.select(outbox).where(outbox.c.region == "360423"))
        assert [(r.type, r.void) for r in kept if r.void] == []
        assert {r.type: bytes(r.payload) for r in kept} == {r.type: r.payload for r in rows}
        rising = dict(replication.rising(store))
        for row in rows:
            about = events.class_of(row.type).DESCRIPTOR.fields_by_number[1].message_type.full_name
            if about in rising:
                assert store.row(rising[about], row.name) is not None, row.type

    def test_are_acted_on(self, version: str, neighbour: counties.County) -> None:
        found = told(version)
        for reaction in neighbour.store.reactions.values():
            *_, about, verb = reaction.subject.split(".")
            name = next(
                n
                for n in found
                if n.startswith(f"{H}.")
                and evolution.verb(images.read().messages[n]) == verb
                and next(iter(found[n][1])) == about
            )
            event = reactions.Event("", {"ce-id": name, "ce-type": name}, found[name][0])
            reactions.react(neighbour.store, reaction, [event], neighbour.now, neighbour.region)
            assert reactions.acted(neighbour.store, reaction, event)


class TestRelease:
    @pytest.fixture
    def checkout(self, tmp_path: pathlib.Path) -> pathlib.Path:
        """A clean checkout that has the contract of today."""
        for part in ("protos/releases", "gen"):
            (tmp_path / part).mkdir(parents=True)
        shutil.copytree(evolution.RELEASES, tmp_path / "protos/releases", dirs_exist_ok=True)
        (tmp_path / "gen/village.binpb").write_bytes(TODAY)
        self.say(tmp_path, "9.0.0")
        return tmp_path

    def say(self, checkout: pathlib.Path, version: str) -> None:
        (checkout / "pyproject.toml").write_text(f'[project]\nversion = "{version}"\n')
        me = ("-c", "user.name=a", "-c", "user.email=a@village.invalid")
        for word in (("init", "-q"), ("add", "-A"), (*me, "commit", "-qm", "All", "--allow-empty")):
            subprocess.run(["git", *word], cwd=checkout, check=True)

    def test_is_frozen_once_and_the_same_whenever_it_is_made(self, checkout: pathlib.Path) -> None:
        assert release.refusal("9.0.0", checkout) == ""
        release.freeze("9.0.0", checkout, datetime.date(2027, 1, 1))
        folder = checkout / "protos/releases"
        first = [p.read_bytes() for p in sorted(folder.glob("9.0.0.*"))]
        assert len(first) == 2
        assert list(evolution.releases(folder)) == [*evolution.releases(), "9.0.0"]
        assert "is frozen already" in release.refusal("9.0.0", checkout)
        release.freeze("9.0.0", checkout, datetime.date(2027, 1, 1))
        assert [p.read_bytes() for p in sorted(folder.glob("9.0.0.*"))] == first

    @pytest.mark.parametrize(
        ("version", "said"),
        [
            ("0.1.0", "is frozen already"),
            ("0.0.9", "is not newer than"),
            ("9.1.0", "pyproject.toml says version 9.0.0"),
            ("next", "is not a version"),
            ("", "is not a version"),
        ],
    )
    def test_is_refused(self, checkout: pathlib.Path, version: str, said: str) -> None:
        assert said in release.refusal(version, checkout)

    def test_is_refused_in_a_changed_checkout(self, checkout: pathlib.Path) -> None:
        (checkout / "new.proto").touch()
        assert "not committed" in release.refusal("9.0.0", checkout)
