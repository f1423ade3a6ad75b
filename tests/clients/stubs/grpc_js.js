// Reads calls and writes what came of them, as `tests/clients/raw_stubs.py` says, for stubs of @grpc/grpc-js.
"use strict";

const fs = require("node:fs");
const readline = require("node:readline");
const grpc = require("@grpc/grpc-js");

const setting = (name) => process.env[`CONFORMANCE_${name}`] ?? "";
const DETAILS = "grpc-status-details-bin";

function credentials() {
  const [ca, cert, key] = ["CA", "CERT", "KEY"].map((name) => setting(name) && fs.readFileSync(setting(name)));
  return ca ? grpc.credentials.createSsl(ca, key, cert) : grpc.credentials.createInsecure();
}

/**
 * Makes the calls of stdin until it ends.
 * @param stub returns the class of a service's clients
 * @param request, reply convert to a method's request, and from its reply: of JSON, and to it
 * @param status returns the JSON of an encoded google.rpc.Status
 */
exports.serve = ({ stub, request, reply, status }) => {
  const options = setting("SERVER_NAME") ? { "grpc.ssl_target_name_override": setting("SERVER_NAME") } : {};
  const metadata = new grpc.Metadata();
  if (setting("TOKEN_FILE")) metadata.set("authorization", `Bearer ${fs.readFileSync(setting("TOKEN_FILE"), "utf8").trim()}`);
  const clients = new Map();
  const calls = new Map();
  const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

  const call = (id, path, json) => {
    const [, service, method] = /^\/cache_sidecar\.v1\.(\w+)\/(\w+)$/.exec(path);
    const Client = stub(service);
    if (!clients.has(service)) clients.set(service, new Client(setting("ADDRESS"), credentials(), options));
    const name = method[0].toLowerCase() + method.slice(1);
    const { responseStream } = Client.service[name] ?? Client.service[method];
    const failed = (error) => {
      const [details] = error.metadata?.get(DETAILS) ?? [];
      say({ id, error: { code: error.code, status: details ? status(details) : null } });
    };
    const replied = (message) => say({ id, reply: reply(method, message) });
    const given = [request(method, json), metadata, { deadline: Date.now() + 90_000 }];
    const bound = clients.get(service)[name].bind(clients.get(service));
    calls.set(
      id,
      responseStream
        ? bound(...given).on("data", replied).on("error", failed)
        : bound(...given, (error, message) => (error ? failed(error) : replied(message))),
    );
  };

  readline.createInterface({ input: process.stdin }).on("line", (line) => {
    const { id, method, request: json, cancel } = JSON.parse(line);
    if (cancel === undefined) call(id, method, json);
    else calls.get(cancel).cancel();
  }).on("close", () => process.exit(0));
};
