import { SessionService } from "../gen/cache_sidecar/v1/session_service_pb.js";
import { dateOf, freshnessOf, sessionOf, type Session } from "../model.js";
import { elements } from "../pages.js";
import type { CallOptions, Transport, WriteOptions } from "../transport.js";
import { missingField } from "./products.js";

export interface SessionFields {
  userId?: string;
  /** Attributes to set; those that are not named stay. `null` removes one. */
  attributes?: Readonly<Record<string, string | null>>;
  client?: { ipAddress?: string; userAgent?: string };
}

export interface NewSession {
  /** The secret ID, for a cookie. It is not returned again. */
  readonly sessionId: string;
  readonly session: Session;
}

const { method: methods } = SessionService;

export class SessionCalls {
  constructor(private readonly transport: Transport) {}

  async create(
    fields: { userId?: string; attributes?: Readonly<Record<string, string>>; client?: { ipAddress?: string; userAgent?: string } } = {},
    options: WriteOptions = {},
  ): Promise<NewSession> {
    const { userId = "", attributes = {}, client = {} } = fields;
    const request = { userId, attributes: { ...attributes }, client };
    const { sessionId, session } = await this.transport.unary(methods.createSession, request, options);
    return { sessionId, session: sessionOf(session ?? missingField("session")) };
  }

  /** Returns a session, and extends its expiry. Throws NotFound if it has ended. */
  async get(sessionId: string, options: CallOptions = {}): Promise<Session> {
    const { session, cache } = await this.transport.unary(methods.getSession, { sessionId }, options);
    return sessionOf(session ?? missingField("session"), freshnessOf(cache));
  }

  /** Extends the expiry and returns it. Throws NotFound if the session has ended. */
  async touch(sessionId: string, options: CallOptions = {}): Promise<Date | undefined> {
    return dateOf((await this.transport.unary(methods.touchSession, { sessionId }, options)).expireTime);
  }

  /**
   * Changes what is given. With `etag`, throws EtagMismatch if the session has changed since. With `mask`, as for
   * UpdateSession.
   */
  async update(
    sessionId: string,
    fields: SessionFields,
    options: { etag?: string; mask?: readonly string[] } & WriteOptions = {},
  ): Promise<Session> {
    const { attributes = {}, ...plain } = fields;
    const values = Object.fromEntries(Object.entries(attributes).filter((entry): entry is [string, string] => entry[1] !== null));
    const paths: string[] = options.mask ? [...options.mask] : Object.keys(attributes).map((key) => `attributes.${key}`);
    if (!options.mask && fields.userId !== undefined) paths.push("user_id");
    if (!options.mask && fields.client !== undefined) paths.push("client");
    const request = { session: { sessionId, etag: options.etag ?? "", ...plain, attributes: values }, updateMask: { paths } };
    const { session } = await this.transport.unary(methods.updateSession, request, options);
    return sessionOf(session ?? missingField("session"));
  }

  /** Ends a session. Returns whether other sidecars may still accept it for a moment. Throws NotFound. */
  async delete(sessionId: string, options: WriteOptions = {}): Promise<{ revocationPending: boolean }> {
    const { revocationPending } = await this.transport.unary(methods.deleteSession, { sessionId }, options);
    return { revocationPending };
  }

  /** Replaces the ID of a session: at every login. */
  async rotate(sessionId: string, options: WriteOptions = {}): Promise<NewSession & { revocationPending: boolean }> {
    const reply = await this.transport.unary(methods.rotateSession, { sessionId }, options);
    const session = sessionOf(reply.session ?? missingField("session"));
    return { sessionId: reply.sessionId, session, revocationPending: reply.revocationPending };
  }

  /** Yields a user's sessions, the newest first, from PostgreSQL. */
  list(userId: string, options: { pageSize?: number } & CallOptions = {}): AsyncGenerator<Session, void, undefined> {
    const { pageSize = 0 } = options;
    return elements(
      (pageToken) => this.transport.unary(methods.listUserSessions, { userId, pageSize, pageToken }, options),
      ({ sessions, cache }) => sessions.map((session) => sessionOf(session, freshnessOf(cache))),
    );
  }

  /** Ends all sessions of a user, and returns how many. */
  async deleteAll(userId: string, options: WriteOptions = {}): Promise<number> {
    return (await this.transport.unary(methods.deleteUserSessions, { userId }, options)).deleted;
  }
}
