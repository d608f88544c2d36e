// Files a report and lists the county's: node reports.mjs HOST:PORT RESIDENT_TOKEN COUNTY_TOKEN DESCRIPTOR_SET
import { readFileSync } from "node:fs";
import { randomUUID } from "node:crypto";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [address, resident, county, descriptors] = process.argv.slice(2);
const contract = loader.loadFileDescriptorSetFromBuffer(readFileSync(descriptors), {
  keepCase: true, enums: String, longs: String, defaults: true,
});
const { ReportService } = grpc.loadPackageDefinition(contract).village.habitat.v1;
const reports = new ReportService(address, grpc.credentials.createInsecure());
const call = (method, token, request) => {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${token}`);
  return promisify(reports[method].bind(reports))(request, metadata, { deadline: Date.now() + 10_000 });
};
const reason = (error) => {
  const [raw] = error.metadata.get("grpc-status-details-bin");
  const details = raw ? contract["google.rpc.Status"].deserialize(raw).details : [];
  const info = details.find((detail) => detail.type_url.endsWith("/google.rpc.ErrorInfo"));
  return info && contract["google.rpc.ErrorInfo"].deserialize(info.value).reason;
};

const filed = await call("FileReport", resident, {
  parent: "regions/360423",
  request_id: randomUUID(), // repeating with the same is safe
  report: {
    category: "CATEGORY_WASTE", description: "村口垃圾三天未清运", division: "360423100201",
    location: { latitude: 29.26, longitude: 115.09 },
  },
});
console.log("filed", filed.name);
await call("AcceptReport", resident, { name: filed.name }).catch((e) => console.log("refused", reason(e)));
let page_token = "";
do {
  const page = await call("ListReports", county, { parent: "regions/360423", page_size: 2, page_token });
  for (const report of page.reports) console.log("listed", report.name, report.state);
  page_token = page.next_page_token;
} while (page_token);
reports.close();
