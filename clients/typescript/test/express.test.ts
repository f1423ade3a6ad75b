import assert from "node:assert/strict";
import type { IncomingMessage } from "node:http";
import { test } from "node:test";
import { status } from "@grpc/grpc-js";

import { RequestSession } from "../src/express.js";
import { InvalidRequest, NotFound, type CacheSidecar } from "../src/index.js";
import { errorOf } from "../src/errors.js";
import { Failed } from "./sidecar.js";

const failed = (code: status, reason: string) => errorOf(Object.assign(new Error(), new Failed(code, reason).error), "GetSession");
const NONE = failed(status.NOT_FOUND, "NOT_FOUND");
const INVALID = failed(status.INVALID_ARGUMENT, "INVALID_REQUEST");

function sessionWith(sessions: Record<string, (...given: never[]) => unknown>, agent = "browser"): RequestSession {
  const request = { socket: {}, headers: { "user-agent": agent } } as unknown as IncomingMessage;
  return new RequestSession({ sessions } as unknown as CacheSidecar, request, {}, "cookie");
}

test("a cookie that can be no ID is one without a session", async () => {
  assert.ok(NONE instanceof NotFound && INVALID instanceof InvalidRequest);
  for (const error of [NONE, INVALID]) {
    const session = sessionWith({ get: () => Promise.reject(error) });
    await session.load();
    assert.equal(session.id, "");
  }
});

test("a login whose session has ended meanwhile begins another, for a browser of any name", async () => {
  const created: unknown[] = [];
  const session = sessionWith(
    {
      get: () => Promise.resolve({ userId: "", attributes: { old: "1" } }),
      rotate: () => Promise.reject(NONE),
      create: (...[given]: unknown[]) => {
        created.push(given);
        return Promise.resolve({ sessionId: "new", session: { userId: "ada", attributes: { seen: "mug" } } });
      },
    },
    "a\tbrowser",
  );
  await session.load();
  session.set("seen", "mug");
  await session.login("ada");
  assert.deepEqual([session.id, session.userId, session.get("old")], ["new", "ada", undefined]);
  assert.deepEqual(created, [{ userId: "ada", attributes: { seen: "mug" }, client: { ipAddress: "", userAgent: "a browser" } }]);
});
