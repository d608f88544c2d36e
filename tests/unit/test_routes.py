"""Which methods are a node's own, and which reads a copy answers."""

import pytest

from mesh import contract, routes

HABITAT, MESH = contract.read("village.habitat.v1").methods, contract.read("village.mesh.v1").methods


class TestLocal:
    def test_are_the_methods_of_nodes_and_joining(self) -> None:
        assert {n for n, m in MESH.items() if routes.local(m)} == {"EnrolNode", "RenewBundle"}
        assert {n for n, m in HABITAT.items() if routes.local(m)} == {
            "PullLog",
            "DigestRecords",
            "FetchRecords",
            *("FreezeRegion", "ExportRegion", "ImportRegion", "SumRegion", "ReduceRegion"),
            *("AssumeRegion", "SetEventsAside", "ReconcileCopy", "GetCondition"),
        }


class TestListing:
    @pytest.mark.parametrize("name", ["ListReports", "ListReportPolicies", "ComputeReportFigures"])
    def test_is_of_a_region_s_records(self, name: str) -> None:
        assert routes.listing(HABITAT[name], "regions/360423")
        assert routes.listing(HABITAT[name], "regions/360000")

    def test_is_not_of_one_record(self) -> None:
        one = "regions/360423/reports/019a"
        assert not routes.listing(HABITAT["GetReport"], one)
        assert not routes.listing(HABITAT["ListReportSteps"], one), (
            "the steps of one record are that record's"
        )
