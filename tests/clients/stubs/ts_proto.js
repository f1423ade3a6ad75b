// Makes calls with stubs that ts-proto generates:
//     node ts_proto.js FOLDER_OF_COMPILED_STUBS
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { serve } = require("./grpc_js.js");

const [folder] = process.argv.slice(2);
const load = (name) => require(path.resolve(folder, name));
const google = { ...load("google/rpc/status.js"), ...load("google/rpc/error_details.js") };
const v1 = Object.assign({}, ...fs.readdirSync(path.join(folder, "cache_sidecar/v1")).map((name) => load(`cache_sidecar/v1/${name}`)));

serve({
  stub: (service) => v1[`${service}Client`],
  request: (method, json) => v1[`${method}Request`].fromJSON(json),
  reply: (method, message) => v1[`${method}Response`].toJSON(message),
  status: (bytes) => {
    const { details, ...status } = google.Status.decode(bytes);
    const decoded = details.map(({ typeUrl, value }) => {
      const [, name] = /\.(\w+)$/.exec(typeUrl);
      const type = (typeUrl.startsWith("type.googleapis.com/google.rpc.") ? google : v1)[name];
      return { "@type": typeUrl, ...type.toJSON(type.decode(value)) };
    });
    return { ...status, details: decoded };
  },
});
