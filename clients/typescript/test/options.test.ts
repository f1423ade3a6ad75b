import assert from "node:assert/strict";
import { mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";

import { connect } from "../src/index.js";
import { addressOf, credentialsOf, TokenFile } from "../src/options.js";

const folder = mkdtempSync(join(tmpdir(), "client-"));
after(() => rmSync(folder, { recursive: true }));

test("the address is the injector's, else the socket if it is there, else that of a sidecar on this machine", () => {
  const socket = join(folder, "grpc.sock");
  assert.equal(addressOf({}, socket), "127.0.0.1:50051");
  writeFileSync(socket, "");
  assert.equal(addressOf({}, socket), `unix:${socket}`);
  assert.equal(addressOf({ CACHE_SIDECAR_SOCKET: "/run/s" }, socket), "unix:/run/s");
  assert.equal(addressOf({ CACHE_SIDECAR_ADDRESS: "127.0.0.1:9", CACHE_SIDECAR_SOCKET: "/run/s" }, socket), "127.0.0.1:9");
});

test("a token is read again when its file has changed, and kept while the file has none, which is logged once", () => {
  const path = join(folder, "token");
  writeFileSync(path, "# the cart's\ncart app first\n");
  const lines: string[] = [];
  const file = new TokenFile(path, (line) => lines.push(line));
  assert.equal(file.current(), "first");
  writeFileSync(path, "second\n");
  utimesSync(path, 1, 1);
  assert.equal(file.current(true), "second");
  for (const wrong of ["", "t\u00f6k", "a\u0001b"]) {
    writeFileSync(path, wrong);
    assert.equal(file.current(true), "second");
  }
  assert.deepEqual(lines, [`the token file ${path} has no token, that from before stays in use: it is empty`]);
  writeFileSync(path, "app app t-._~+/9==\n");
  assert.equal(file.current(true), "t-._~+/9==");
});

test("a token file that is missing or empty is reported by name", () => {
  assert.throws(() => new TokenFile(join(folder, "none")), /none/);
  const empty = join(folder, "empty");
  writeFileSync(empty, "\n");
  assert.throws(() => new TokenFile(empty), /empty has no token: it is empty/);
  writeFileSync(empty, "t\u00f6k");
  assert.throws(() => new TokenFile(empty), /empty has no token: a token has only letters/);
  assert.throws(() => connect({ token: "t\u00f6k" }), /token: a token has only letters/);
});

test("a certificate needs its key, and both the CA", () => {
  assert.throws(() => credentialsOf({ cert: "cert.pem" }), /together/);
  assert.throws(() => credentialsOf({ ca: join(folder, "ca.pem") }), /ca\.pem/);
});
