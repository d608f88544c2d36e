"""One good server for all of these tests: each broken one stands before it."""

from collections.abc import Iterator

import pytest

from tests.conform.served import Served


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    found = Served(tmp_path_factory.mktemp("conform"))
    found.file(8)
    yield found
    found.close()
