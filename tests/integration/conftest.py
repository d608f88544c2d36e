"""The gateway that several files of tests ask."""

from collections.abc import Iterator

import pytest

from tests import gateway as gateways


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gateways.Gateway]:
    with gateways.started(tmp_path_factory.mktemp("gateway")) as started:
        yield started


@pytest.fixture
def gateway(running: gateways.Gateway) -> Iterator[gateways.Gateway]:
    """The gateway as it was started, with an upstream that is up and has seen nothing."""
    if running.upstream.server is None:
        running.upstream.start()
    running.upstream.calls.clear()
    before = dict(running.upstream.answers)
    yield running
    running.upstream.answers = before
