"""Files a report, lists the county's, and says why something is refused:
python reports.py URL RESIDENT_TOKEN COUNTY_TOKEN"""

import sys

import village_mesh
from village.habitat.v1 import report_pb2, report_pb2_grpc


def main(url: str, resident: str, county: str) -> None:
    with village_mesh.Client(url, token=resident) as mesh:
        report = report_pb2.Report(
            category="CATEGORY_WASTE",
            description="村口垃圾三天未清运",
            division="360423100201",
            location={"latitude": 29.26, "longitude": 115.09},
        )
        reports = mesh.stub(report_pb2_grpc.ReportServiceStub)
        filed = reports.FileReport(report_pb2.FileReportRequest(parent="regions/360423", report=report))
        print("filed", filed.name)
        try:
            reports.AcceptReport(report_pb2.AcceptReportRequest(name=filed.name))
        except village_mesh.Refusal as refusal:
            print("refused", refusal.reason, refusal.chinese)

    with village_mesh.Client(url, token=lambda: county) as mesh:  # asked anew before every attempt
        reports = mesh.stub(report_pb2_grpc.ReportServiceStub)
        every = report_pb2.ListReportsRequest(parent="regions/360423", page_size=2, filter="state = REPORTED")
        for report in village_mesh.pages(reports.ListReports, every):
            print("listed", report.name, report_pb2.Report.State.Name(report.state))
        accepted, call = reports.AcceptReport.with_call(report_pb2.AcceptReportRequest(name=filed.name))
        print("accepted", accepted.etag, village_mesh.told(call).served_by)


if __name__ == "__main__":
    main(*sys.argv[1:])
