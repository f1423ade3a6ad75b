import { existsSync, readFileSync, statSync } from "node:fs";
import { credentials, experimental, type ChannelCredentials } from "@grpc/grpc-js";

import type { LocalCacheOptions } from "./local_cache.js";
import { TlsFiles } from "./tls_files.js";

/** The socket's path in a pod with an injected sidecar. */
const SOCKET = "/run/cache-sidecar/grpc.sock";
const DEFAULT_ADDRESS = "127.0.0.1:50051";

/** Files that are read again when they change; while they cannot be used, those from before count. */
export interface TlsOptions {
  /** File with the CAs to trust, in PEM; the system's by default. */
  ca?: string;
  /** Files with the client's certificate and key, in PEM. */
  cert?: string;
  key?: string;
  /** The name in the sidecar's certificate, if it differs from the host. */
  serverName?: string;
}

/** What a call of the library was, once it has ended. */
export interface CallInfo {
  /** Such as `ProductService/GetProduct`. */
  method: string;
  milliseconds: number;
  attempts: number;
  /** The gRPC status of the last attempt, such as `OK`. */
  code: string;
}

/** For metrics and traces; what they throw is thrown to the caller. */
export interface Hooks {
  /** Headers of a call, such as those of OpenTelemetry's `propagation.inject`. */
  headers?(method: string): Readonly<Record<string, string>>;
  onCall?(info: CallInfo): void;
}

export interface Options {
  /** `host:port`, or `unix:/path`; by default the environment's, see `addressOf`. */
  address?: string;
  tls?: TlsOptions;
  /** A file with a token, read again when it changes; or the token itself. */
  tokenFile?: string;
  token?: string;
  /** Milliseconds that a call may take with all its retries: 2,000 for reads, 5,000 for writes. */
  readTimeout?: number;
  writeTimeout?: number;
  /** The largest reply to accept, in bytes: 64 MiB, which any sidecar's `max_message_bytes` should fit into. */
  maxMessageBytes?: number;
  /** Whether the `get` calls of one turn of the event loop are sent as one BatchGet: true. */
  joinGets?: boolean;
  /** Keeps products in this process: off by default. */
  localCache?: LocalCacheOptions;
  /** Milliseconds that a call with a fallback waits for a sidecar that hangs: 500. */
  fallbackAfter?: number;
  /** How many fallbacks may run at the same time: 16. */
  maxFallbacks?: number;
  /** Where a line is logged when fallbacks begin and end, and when a changed token or TLS files cannot be used: `console.warn`. */
  log?: (line: string) => void;
  hooks?: Hooks;
}

/**
 * Returns the sidecar's address: that of the injector's environment (`CACHE_SIDECAR_ADDRESS`, or `CACHE_SIDECAR_SOCKET`),
 * else the socket of a pod if it is there, else 127.0.0.1:50051.
 */
export function addressOf(environment: Readonly<Record<string, string | undefined>> = process.env, socket: string = SOCKET): string {
  const { CACHE_SIDECAR_ADDRESS: address, CACHE_SIDECAR_SOCKET: path } = environment;
  if (address) return address;
  if (path) return path.startsWith("unix:") ? path : `unix:${path}`;
  return existsSync(socket) ? `unix:${socket}` : DEFAULT_ADDRESS;
}

/** Returns credentials that follow the files when they are replaced: new connections use the new ones. */
export function credentialsOf(tls: TlsOptions | undefined, log?: (line: string) => void): ChannelCredentials {
  if (tls === undefined) return credentials.createInsecure();
  const { ca, cert, key } = tls;
  if ((cert === undefined) !== (key === undefined)) throw new TypeError("tls.cert and tls.key must be given together");
  if (ca === undefined && cert === undefined) return credentials.createSsl();
  if (ca === undefined) throw new TypeError("tls.cert needs tls.ca");
  const files = new TlsFiles({ ca, cert, key }, log);
  return experimental.createCertificateProviderChannelCredentials(files, cert === undefined ? null : files);
}

export const TOKEN_RULE = "a token has only letters, digits and -._~+/";

/** RFC 6750, 2.1. Of others gRPC makes errors that do not say what is wrong. */
export function isToken(text: string): boolean {
  return /^[A-Za-z0-9._~+/-]+=*$/.test(text);
}

/** The token of a file, which may be replaced at any time. */
export class TokenFile {
  #token = "";
  #modified = -1;
  #checked = -Infinity;
  #isWrong = false;

  /** Throws an error that names the file if it has no token. */
  constructor(
    private readonly path: string,
    private readonly log: (line: string) => void = console.warn,
  ) {
    this.current();
  }

  /** Returns the token. Looks at the file at most once a second, unless `now`; keeps the last one, and says so once, if it has none. */
  current(now = false): string {
    if (!now && performance.now() - this.#checked < 1_000) return this.#token;
    this.#checked = performance.now();
    try {
      const { mtimeMs } = statSync(this.path);
      if (now || mtimeMs !== this.#modified) {
        this.#token = firstToken(readFileSync(this.path, "utf8"));
        this.#modified = mtimeMs;
      }
      this.#isWrong = false;
    } catch (error) {
      const problem = `the token file ${this.path} has no token`;
      if (this.#token === "") throw new Error(`${problem}: ${(error as Error).message}`, { cause: error });
      if (!this.#isWrong) this.log(`${problem}, that from before stays in use: ${(error as Error).message}`);
      this.#isWrong = true;
    }
    return this.#token;
  }
}

/** A line is a token, or a name, roles and a token, as in the sidecar's own file. */
function firstToken(text: string): string {
  const lines = text.split("\n").map((line) => line.trim());
  const token = lines.find((line) => line !== "" && !line.startsWith("#"))?.split(/\s+/).at(-1);
  if (token === undefined) throw new Error("it is empty");
  if (!isToken(token)) throw new Error(TOKEN_RULE);
  return token;
}
