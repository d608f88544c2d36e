"""Holds the rules of the sources that imports cannot express: who reads the environment, how large the
plumbing is, which words it may not know, what a module may be called. The checks are functions over
parsed source, so that each is also shown to find what it looks for."""

import ast
import io
import pathlib
import re
import tokenize
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TREES = ("mesh", "services", "gateway", "deploy", "cli", "conform", "bench", "protos", "tests")
PYTHON = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for tree in TREES
    for path in sorted((ROOT / tree).rglob("*.py"))
}
MESH = {path: source for path, source in PYTHON.items() if path.startswith("mesh/")}

READERS_OF_THE_ENVIRONMENT = ("mesh/config.py", "deploy/local/", "cli/")
"""Beside `mesh.config`, those that start processes and pass an environment on to them."""
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}

LINES_IN_A_MODULE = 400
LINES_IN_MESH = 8_000
"""Of code: without blank lines, comments and docstrings. It was 5,200 before the mesh between nodes came with
`trust`, `links`, `streams`, `routes`, `replication` and `copies`."""

VAGUE_NAMES = {"util", "utils", "helper", "helpers", "common", "commons", "base", "bases"}

PLAIN_NOUNS = {
    *("habitat", "govservice", "traceability"),
    *("pesticide", "fertilizer", "livestock", "veterinary", "fodder"),
    *("sewage", "toilet", "garbage", "odour", "wetland"),
    *("cadre", "villager", "petition", "hotline", "mediation"),
    *("flood", "drought", "evacuation", "typhoon", "loudspeaker"),
    *("museum", "heritage", "relic", "opera"),
}
"""Nouns of the six domains that plumbing has no other use for."""

NOUNS_THAT_ARE_ALSO_ENGLISH = {
    *("report", "waste", "party", "emergency", "culture", "incident", "disaster", "inspection", "recall"),
}
"""Nouns of the six domains that a sentence may need ("is reported to", "third party"); they are looked
for in identifiers, subjects and paths, not in prose."""


def lines(source: str) -> int:
    return len(source.splitlines())


def code_lines(source: str) -> int:
    """Lines that hold code."""
    tree = ast.parse(source)
    texts = (n.value for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))
    said = {line for text in texts for line in range(text.lineno, (text.end_lineno or 0) + 1)}
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
              tokenize.ENDMARKER}  # fmt: skip
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            found.update(range(token.start[0], token.end[0] + 1))
    return len(found - said)


def environment_reads(source: str) -> Iterator[int]:
    """Yields the lines that touch the process's environment, under whatever name `os` was imported."""
    tree = ast.parse(source)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    aliases = {name.asname or name.name for node in imports for name in node.names if name.name == "os"}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=attr) if module in aliases:
                if attr in ENVIRONMENT:
                    yield node.lineno
            case ast.ImportFrom(module="os", names=names):
                if any(name.name in ENVIRONMENT for name in names):
                    yield node.lineno


def stems(identifier: str) -> set[str]:
    """Splits snake_case, CamelCase and paths into lower-case words, each also without its plural `s`."""
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)}
    return words | {word.removesuffix("s") for word in words}


def identifiers(node: ast.AST) -> Iterator[str]:
    """Yields the names that a node introduces or uses."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.keyword(arg=str(name)) | ast.ImportFrom(module=str(name)):
            yield name
        case ast.alias(name=name, asname=asname):
            yield from (name, asname or "")
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            yield from names


def domain_nouns(source: str) -> Iterator[tuple[int, str]]:
    """Yields line and noun wherever code names a thing of a domain. Comments and docstrings may: an
    example there binds nobody."""
    tree = ast.parse(source)
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        for name in identifiers(node):
            for noun in sorted(stems(name) & (PLAIN_NOUNS | NOUNS_THAT_ARE_ALSO_ENGLISH)):
                yield getattr(node, "lineno", 0), noun
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in prose:
            text = node.value if isinstance(node.value, str) else node.value.decode("utf-8", "replace")
            tokens = text.split()
            for token in tokens:
                bare = token.strip(".,;:!?()[]{}'\"`")
                is_code = len(tokens) == 1 or re.search(r"\w[._/:{}]+\w|[a-z][A-Z]", bare)
                nouns = PLAIN_NOUNS | NOUNS_THAT_ARE_ALSO_ENGLISH if is_code else PLAIN_NOUNS
                for noun in sorted(stems(bare) & nouns):
                    yield node.lineno, noun


def branches_on_a_domain(source: str) -> Iterator[int]:
    """Yields the lines that compare something called a domain with a literal, or with a set of them."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare(left=left, comparators=others):
                sides = [left, *others]
                named = any("domain" in identifiers(side) for side in sides)
                literals = (part for side in sides for part in (side, *getattr(side, "elts", ())))
                if named and any(isinstance(part, ast.Constant) and part.value for part in literals):
                    yield node.lineno
            case ast.Match(subject=subject) if "domain" in identifiers(subject):
                yield node.lineno


def vague_parts(path: str) -> set[str]:
    """Returns the folders of a path and its stem that say nothing about what they hold."""
    parts = pathlib.PurePosixPath(path).with_suffix("").parts
    return {part for part in parts if part.strip("_").lower() in VAGUE_NAMES}


class TestEnvironment:
    def test_is_touched_by_the_settings_and_by_what_starts_processes_only(self):
        assert "mesh/config.py" in PYTHON
        found = [
            f"{path}:{line}"
            for path, source in PYTHON.items()
            if not path.startswith((*READERS_OF_THE_ENVIRONMENT, "bench/", "protos/", "tests/"))
            for line in environment_reads(source)
        ]
        assert found == []

    def test_in_mesh_is_read_in_one_place(self):
        assert {path for path, source in MESH.items() if any(environment_reads(source))} == {"mesh/config.py"}

    @pytest.mark.parametrize(
        "source",
        [
            "import os\nos.environ['A']",
            "import os\nos.getenv('A')",
            "import os as system\nsystem.environ.get('A')",
            "from os import environ",
            "from os import path, getenv as look",
        ],
    )
    def test_is_noticed_however_it_is_reached(self, source):
        assert list(environment_reads(source))

    def test_is_not_seen_where_it_is_not(self):
        assert list(environment_reads("import os\nos.getpid()\nwsgi.environ\n'os.environ'")) == []


class TestSizeOfThePlumbing:
    def test_keeps_every_module_within_its_limit(self):
        long = {path: lines(source) for path, source in MESH.items() if lines(source) > LINES_IN_A_MODULE}
        assert long == {}

    def test_stays_within_its_total(self):
        assert 0 < sum(map(code_lines, MESH.values())) <= LINES_IN_MESH

    def test_counts_the_last_line_with_or_without_its_newline(self):
        assert lines("a\nb\n") == lines("a\nb") == 2
        assert code_lines('"""d"""\n\nx = 1  # c\n# c\n') == 1


class TestWordsOfThePlumbing:
    def test_include_no_noun_of_a_domain(self):
        found = [
            f"{path}:{line} {noun}" for path, source in MESH.items() for line, noun in domain_nouns(source)
        ]
        assert found == []

    def test_never_branch_on_a_domain(self):
        found = [f"{path}:{line}" for path, source in MESH.items() for line in branches_on_a_domain(source)]
        assert found == []

    @pytest.mark.parametrize(
        "source",
        [
            "def close_report(): ...",
            "class ReportClosed: ...",
            "def act(*, reports): ...",
            "act(report=1)",
            "call.reports.get()",
            "from village.habitat.v1 import thing_pb2",
            "import services.party.tables as tables",
            "x = 'habitat'",
            "x = 'Report'",
            "x = b'habitat'",
            "x = 'regions/{region}/reports/{id}'",
            "x = f'village.{region}.habitat.filed'",
            "x = 'SELECT * FROM village_reports'",
            "x = 'the sewage is deep'",
            "match x:\n    case report: ...",
        ],
    )
    def test_are_noticed_in_identifiers_paths_and_strings(self, source):
        assert list(domain_nouns(source))

    @pytest.mark.parametrize(
        "source",
        [
            '"""Keeps regions/360423/reports/1 for habitat."""',
            "x: str\n'''As in habitat.'''",
            "# habitat",
            "x = 'a third party may report it'",
            "from village.options.v1 import options_pb2",
            "reporter = high_water_mark = event.region",
            "x = 'village.36.04.23'",
        ],
    )
    def test_leave_prose_and_the_plumbing_s_own_words_alone(self, source):
        assert list(domain_nouns(source)) == []

    @pytest.mark.parametrize(
        "source",
        [
            "if domain == 'x': ...",
            "'x' != service.domain",
            "service.domain in ('x', 'y')",
            "match domain:\n    case _: ...",
        ],
    )
    def test_that_choose_by_domain_are_noticed(self, source):
        assert list(branches_on_a_domain(source))

    def test_that_compare_two_domains_are_allowed(self):
        assert list(branches_on_a_domain("if event.domain == domain or domain == '': ...")) == []

    def test_that_set_the_node_s_own_domain_apart_name_it(self):
        assert list(branches_on_a_domain("if domain == NODE_DOMAIN: ...")) == []
        assert list(branches_on_a_domain("if domain == 'mesh': ..."))


class TestNamesOfModules:
    def test_say_what_the_module_holds(self):
        protos = [path.relative_to(ROOT).as_posix() for path in (ROOT / "protos").rglob("*.proto")]
        assert protos
        assert [path for path in (*PYTHON, *protos) if vague_parts(path)] == []

    @pytest.mark.parametrize(
        "path", ["mesh/utils.py", "services/common/rows.py", "mesh/_base.py", "tests/helpers/clock.py"]
    )
    def test_are_refused_when_they_say_nothing(self, path):
        assert vague_parts(path)

    def test_may_contain_such_a_word(self):
        assert vague_parts("mesh/database.py") == set()


class TestOpeningOfModules:
    def test_is_a_docstring(self):
        assert [path for path, source in PYTHON.items() if not ast.get_docstring(ast.parse(source))] == []
