"""What Prometheus reads, and the dashboard and alert rules that rest on it."""

import json
import pathlib
import re
import urllib.request
from typing import Any

import pytest

from mesh import errors, metrics
from tests.county import County
from tests.trial import domain
from tests.trial.domain import PARENT
from tests.waiting import free_port

MONITORING = pathlib.Path(__file__).resolve().parents[2] / "deploy/monitoring"


def value(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


def test_counts_calls_by_outcome_and_tells_nobody_who(trial: County) -> None:
    pb = domain.messages()
    good = {"domain": "trial", "method": "PutPerson", "code": "OK"}
    before = (
        value("village_calls_total", **good),
        value("village_call_seconds_count", domain="trial", method="PutPerson"),
    )
    trial.call("county", pb.PutPersonRequest(parent=PARENT, person={"phone": "13877417741"}))
    with pytest.raises(errors.Forbidden):
        trial.call("resident", pb.PutPersonRequest(parent=PARENT, person={}))
    assert value("village_calls_total", **good) == before[0] + 1
    assert value("village_calls_total", domain="trial", method="PutPerson", code="FORBIDDEN") >= 1
    assert value("village_call_seconds_count", domain="trial", method="PutPerson") == before[1] + 2
    port = free_port()
    metrics.serve(f"127.0.0.1:{port}", lambda: 3)
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    assert "village_calls_in_hand 3.0" in text
    for planted in ("13877417741", "officer-1", "resident-1"):
        assert planted not in text


def test_every_metric_of_dashboard_and_alerts_exists() -> None:
    known = metrics.names()
    for path in MONITORING.iterdir():
        used = set(re.findall(r"\bvillage_[a-z_]+", path.read_text()))
        assert used, path.name
        assert used <= known, path.name


def test_dashboard_asks_of_labels_that_exist() -> None:
    labels: dict[str, set[str]] = {}
    for made in vars(metrics).values():
        if hasattr(made, "_labelnames"):
            labels[made._name] = {*made._labelnames, "le"}
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    queries: list[Any] = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    assert len(queries) >= 10
    for query in queries:
        (name,) = set(re.findall(r"village_[a-z_]+", query))
        asked = set(re.findall(r"(\w+)!?=", query)) | {
            part.strip() for group in re.findall(r"by \(([^)]*)\)", query) for part in group.split(",")
        }
        base = re.sub(r"_(total|bucket|sum|count)$", "", name)
        assert asked <= labels[base], query
