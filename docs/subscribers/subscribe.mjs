// Prints every step of every report of a county: node subscribe.mjs NATS_URL DESCRIPTOR_SET
import { readFileSync } from "node:fs";
import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { connect } from "@nats-io/transport-node";

const { username: user, password: pass, host } = new URL(process.argv[2]);
const types = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(process.argv[3])));
const client = await connect({ servers: host, user, pass });
for await (const message of client.subscribe("village.36.04.23.habitat.report.*")) {
  const kind = message.headers.get("ce-type"); // village.habitat.v1.ReportFiled …
  const event = fromBinary(types.getMessage(kind), message.data);
  console.log(message.headers.get("ce-id"), kind.split(".").pop(), event.report.name, event.step.toState);
}
