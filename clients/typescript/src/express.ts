/**
 * Sessions for Express, and for anything else with `(request, response, next)` of Node's http.
 *
 *     app.use(sessions(shop));
 *     app.get("/", (request, response) => {
 *       const session = sessionOf(request);
 *       session.set("visits", String(Number(session.get("visits") ?? 0) + 1));
 *       response.send(`visit ${session.get("visits")}`);
 *     });
 *
 * A session is created when something is set in it, and changes are saved before the first byte of the response, so the
 * browser's next request sees them. Call `await session.login(userId)` at login: it replaces the ID, which an attacker may
 * have planted.
 *
 * It is no store for express-session: that makes the IDs itself, and here the sidecar makes them and keeps only their hashes.
 */
import type { IncomingMessage, ServerResponse } from "node:http";

import type { CacheSidecar } from "./client.js";
import { InvalidRequest, NotFound } from "./errors.js";
import type { Session } from "./model.js";

export interface SessionOptions {
  /** The cookie's name: `session`. */
  cookie?: string;
  /** Whether browsers send it over TLS only: true, as it must be in production. */
  secure?: boolean;
  sameSite?: "Lax" | "Strict" | "None";
  /** Milliseconds that a call for a session may take. */
  timeout?: number;
}

const OF = new WeakMap<IncomingMessage, RequestSession>();

/** Returns the session of a request that went through `sessions`. */
export function sessionOf(request: IncomingMessage): RequestSession {
  const session = OF.get(request);
  if (session === undefined) throw new Error("this request has no session: use the middleware `sessions(shop)` before");
  return session;
}

/** The session of one request. */
export class RequestSession {
  #id: string;
  #session: Session | undefined;
  #changes = new Map<string, string | null>();

  constructor(
    private readonly shop: CacheSidecar,
    private readonly request: IncomingMessage,
    private readonly timeout: { timeout?: number },
    id: string,
  ) {
    this.#id = id;
  }

  /** The secret ID; empty if there is no session. */
  get id(): string {
    return this.#session === undefined ? "" : this.#id;
  }

  /** Empty before login. */
  get userId(): string {
    return this.#session?.userId ?? "";
  }

  get(name: string): string | undefined {
    const changed = this.#changes.get(name);
    return changed === null ? undefined : (changed ?? this.#session?.attributes[name]);
  }

  set(name: string, value: string): void {
    this.#changes.set(name, value);
  }

  delete(name: string): void {
    this.#changes.set(name, null);
  }

  /** Makes it the session of a user, with another ID. */
  async login(userId: string): Promise<void> {
    if (this.#session === undefined) {
      await this.#create(userId);
      return;
    }
    const rotated = await this.shop.sessions.rotate(this.#id, this.timeout).catch(ignoreNotFound);
    if (rotated === undefined) {
      await this.#create(userId); // it has ended since the request came
      return;
    }
    this.#adopt(rotated);
    await this.#update({ userId });
  }

  /** Ends the session. */
  async logout(): Promise<void> {
    if (this.#session !== undefined) await this.shop.sessions.delete(this.#id, this.timeout).catch(ignoreNotFound);
    this.#session = undefined;
    this.#changes.clear();
  }

  /** Called by the middleware: reads the session of the cookie, if it has not ended. */
  async load(): Promise<void> {
    if (this.#id === "") return;
    this.#session = await this.shop.sessions.get(this.#id, this.timeout).catch((error: unknown) => {
      // A cookie can be anything, also what no ID can be.
      if (!(error instanceof InvalidRequest)) return ignoreNotFound(error);
    });
  }

  get isChanged(): boolean {
    return this.#changes.size > 0;
  }

  /** Called by the middleware before the response begins. */
  async save(): Promise<void> {
    if (!this.isChanged) return;
    if (this.#session !== undefined) {
      try {
        return await this.#update({});
      } catch (error) {
        // It has ended since the request came, by a logout in another tab: that is no reason to bring its content back.
        if (!(error instanceof NotFound)) throw error;
        this.#session = undefined;
        this.#changes.clear();
        return;
      }
    }
    if ([...this.#changes.values()].some((value) => value !== null)) await this.#create("");
    this.#changes.clear();
  }

  async #create(userId: string): Promise<void> {
    const attributes = Object.fromEntries([...this.#changes].filter((entry): entry is [string, string] => entry[1] !== null));
    const client = {
      // Only the peer's: who believes X-Forwarded-For has to know the proxies.
      ipAddress: this.request.socket.remoteAddress ?? "",
      // A header may have tabs, which no session can have.
      userAgent: (this.request.headers["user-agent"] ?? "").slice(0, 512).replaceAll(/[\x00-\x1f\x7f]/g, " "),
    };
    this.#adopt(await this.shop.sessions.create({ userId, attributes, client }, this.timeout));
    this.#changes.clear();
  }

  async #update(fields: { userId?: string }): Promise<void> {
    const attributes = Object.fromEntries(this.#changes);
    this.#session = await this.shop.sessions.update(this.#id, { ...fields, attributes }, this.timeout);
    this.#changes.clear();
  }

  #adopt({ sessionId, session }: { sessionId: string; session: Session }): void {
    this.#id = sessionId;
    this.#session = session;
  }
}

type Next = (error?: unknown) => void;

/** Returns the middleware. */
export function sessions(
  shop: CacheSidecar,
  options: SessionOptions = {},
): (request: IncomingMessage, response: ServerResponse, next: Next) => void {
  const { cookie = "session", secure = true, sameSite = "Lax", timeout } = options;
  const flags = `; Path=/; HttpOnly; SameSite=${sameSite}${secure ? "; Secure" : ""}`;
  return (request, response, next) => {
    const found = cookieOf(request, cookie);
    const session = new RequestSession(shop, request, timeout === undefined ? {} : { timeout }, found);
    OF.set(request, session);
    beforeHeaders(response, async () => {
      await session.save();
      if (session.id !== "" && session.id !== found) response.appendHeader("Set-Cookie", `${cookie}=${session.id}${flags}`);
      if (session.id === "" && found !== "") response.appendHeader("Set-Cookie", `${cookie}=; Max-Age=0${flags}`);
    });
    session.load().then(() => next(), next);
  };
}

/** Has `prepare` run before a response's headers are sent; what is written meanwhile follows in its order. */
function beforeHeaders(response: ServerResponse, prepare: () => Promise<void>): void {
  const { writeHead, write, end, flushHeaders } = response;
  const original = { writeHead, write, end, flushHeaders };
  type Name = keyof typeof original;
  const waiting: (() => void)[] = [];
  const hold =
    (name: Name, result: unknown) =>
    (...given: never[]) => {
      waiting.push(() => (response[name] as (...given: never[]) => unknown)(...given));
      if (waiting.length === 1) void run();
      return result;
    };
  const run = async () => {
    let problem: unknown;
    try {
      await prepare();
    } catch (error) {
      problem = error;
    }
    Object.assign(response, original);
    // The page says that something was kept, which was not: better no page.
    if (problem === undefined) for (const call of waiting) call();
    else if (!response.headersSent) response.writeHead(503, { "content-type": "text/plain" }).end("the session could not be saved\n");
  };
  Object.assign(response, {
    writeHead: hold("writeHead", response),
    write: hold("write", true),
    end: hold("end", response),
    flushHeaders: hold("flushHeaders", undefined),
  });
}

function cookieOf(request: IncomingMessage, name: string): string {
  for (const part of (request.headers.cookie ?? "").split(";")) {
    const [key, value = ""] = part.trim().split("=", 2);
    // An ID has 43 characters; another cookie of that name is none of ours.
    if (key === name && value.length <= 256) return value;
  }
  return "";
}

function ignoreNotFound(error: unknown): undefined {
  if (!(error instanceof NotFound)) throw error;
  return undefined;
}
