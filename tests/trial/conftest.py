"""The trial domain opened on each kind of database."""

import pathlib
from collections.abc import Iterator

import pytest

from tests import county as counties
from tests.trial import domain


@pytest.fixture
def trial(tmp_path: pathlib.Path, database_url: str) -> Iterator[counties.County]:
    found = counties.County(tmp_path, database_url, domain.service())
    yield found
    found.close()
