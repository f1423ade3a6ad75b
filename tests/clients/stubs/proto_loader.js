// Makes calls with stubs that proto-loader makes of the protos when it starts:
//     node proto_loader.js FOLDER_OF_PROTOS
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const { serve } = require("./grpc_js.js");

const [folder] = process.argv.slice(2);
const files = fs.readdirSync(path.join(folder, "cache_sidecar/v1")).filter((name) => name.endsWith(".proto"));
// With `json`, the details of a status are decoded.
const definitions = loader.loadSync(
  [...files.map((name) => `cache_sidecar/v1/${name}`), "google/rpc/error_details.proto", "google/rpc/status.proto"],
  { includeDirs: [folder], longs: String, enums: String, json: true },
);
const { cache_sidecar: { v1 } } = grpc.loadPackageDefinition(definitions);

serve({
  stub: (service) => v1[service],
  request: (method, json) => json,
  reply: (method, message) => message,
  status: (bytes) => definitions["google.rpc.Status"].deserialize(bytes),
});
