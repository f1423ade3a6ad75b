/** Makes the calls: the one place that decides deadlines, retries, request IDs, tokens and fallbacks, for every method. */
import { randomUUID } from "node:crypto";
import { setMaxListeners } from "node:events";
import {
  create,
  fromBinary,
  toBinary,
  type DescMessage,
  type DescMethodServerStreaming,
  type DescMethodBiDiStreaming,
  type DescMethodClientStreaming,
  type DescMethodUnary,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import { Client, connectivityState, Metadata, status, type ClientDuplexStream, type ClientReadableStream, type ServiceError } from "@grpc/grpc-js";

import { SidecarError, DeadlineExceeded, errorOf, Overloaded, Unauthenticated, Unavailable } from "./errors.js";
import { credentialsOf, isToken, TOKEN_RULE, TokenFile, type Options } from "./options.js";

export interface CallOptions {
  /** Milliseconds that the call may take with all its retries. */
  timeout?: number;
  signal?: AbortSignal;
}

export interface WriteOptions extends CallOptions {
  /** A UUID; one is made by default. To repeat a call that may have been made, repeat it with its ID. */
  requestId?: string;
}

export interface FallbackOptions<T> extends CallOptions {
  /** Loads it from elsewhere if the sidecar is away; the call then fails at once instead of waiting for the sidecar. */
  fallback?: () => Promise<T> | T;
}

/** What has happened since the start. */
export interface Counters {
  calls: number;
  retries: number;
  /** Calls that failed in the end. */
  errors: number;
  fallbacks: number;
  /** Fallbacks that were not run because too many were running. */
  refusedFallbacks: number;
  /** Gets that went out in a batch with others. */
  joinedGets: number;
  localHits: number;
  localMisses: number;
}

/** The attempts of a call that the sidecar has no room for. One that it cannot answer is repeated until the deadline. */
const ATTEMPTS_UNDER_OVERLOAD = 3;
const READS = /^(Get|BatchGet|List|Touch|Inspect)/;
const MAX_MESSAGE_BYTES = 64 * 1024 * 1024;
/** Milliseconds. */
const FIRST_DELAY = 20;
const MAX_DELAY = 500;

type AnyMethod = { name: string; parent: { typeName: string; name: string }; input: DescMessage; output: DescMessage };

export class Transport {
  readonly counters: Counters = {
    calls: 0,
    retries: 0,
    errors: 0,
    fallbacks: 0,
    refusedFallbacks: 0,
    joinedGets: 0,
    localHits: 0,
    localMisses: 0,
  };
  readonly #client: Client;
  readonly #token: (now?: boolean) => string;
  readonly #closing = new AbortController();
  /** Calls under way, which grpc-js does not end when its client is closed. */
  readonly #running = new Set<{ cancel(): void }>();
  #runningFallbacks = 0;
  #isAway = false;
  #hasHookFailed = false;

  constructor(
    readonly address: string,
    private readonly options: Options,
  ) {
    // One of each watch: any number of them is no leak, which Node.js warns of from the eleventh on.
    setMaxListeners(0, this.closing);
    const { token = "", tokenFile } = options;
    const file = tokenFile === undefined ? undefined : new TokenFile(tokenFile, options.log);
    if (token !== "" && !isToken(token)) throw new TypeError(`token: ${TOKEN_RULE}`);
    this.#token = (now) => file?.current(now) ?? token;
    const serverName = options.tls?.serverName;
    this.#client = new Client(address, credentialsOf(options.tls, options.log), {
      // Retries are ours: gRPC's would make a call of its own of each, and stop after five.
      "grpc.enable_retries": 0,
      "grpc.service_config_disable_resolution": 1,
      "grpc.initial_reconnect_backoff_ms": 100,
      "grpc.max_reconnect_backoff_ms": 1_000,
      // A sidecar that hangs is noticed. It accepts a ping every 10 s.
      "grpc.keepalive_time_ms": 15_000,
      "grpc.keepalive_timeout_ms": 5_000,
      "grpc.max_receive_message_length": options.maxMessageBytes ?? MAX_MESSAGE_BYTES,
      // Two clients of one process share neither connections nor their end.
      "grpc.use_local_subchannel_pool": 1,
      ...(serverName === undefined ? {} : { "grpc.ssl_target_name_override": serverName, "grpc.default_authority": serverName }),
    });
  }

  get isClosed(): boolean {
    return this.#closing.signal.aborted;
  }

  /** Ends every call and watch, and the connection. */
  close(): void {
    this.#closing.abort(new Error("the client is closed"));
    for (const call of this.#running) call.cancel();
    this.#client.close();
  }

  /** Aborts when the client is closed. */
  get closing(): AbortSignal {
    return this.#closing.signal;
  }

  /** Returns the reply of a call, after as many attempts as its deadline has room for. */
  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    init: MessageInitShape<I>,
    options: WriteOptions = {},
    { isWaiting = true } = {},
  ): Promise<MessageShape<O>> {
    // The same bytes, and so the same request_id, for each attempt.
    const request = toBinary(method.input, this.#request(method, init, options.requestId));
    const timeout = options.timeout ?? this.#timeout(method);
    const limit = isWaiting ? timeout : Math.min(timeout, this.options.fallbackAfter ?? 500);
    const attempt = (deadline: number) => this.#attempt(method, request, deadline, isWaiting, options.signal);
    return fromBinary(method.output, await this.#retry(method, limit, options.signal, isWaiting, attempt));
  }

  /** Returns what an attempt returns, after as many as the time has room for; each is given the deadline of all. */
  async #retry<T>(
    method: AnyMethod,
    timeout: number,
    signal: AbortSignal | undefined,
    isWaiting: boolean,
    run: (deadline: number) => Promise<T>,
  ): Promise<T> {
    signal?.throwIfAborted();
    this.closing.throwIfAborted();
    const began = performance.now();
    const deadline = Date.now() + timeout;
    this.counters.calls++;
    let hasReadToken: boolean = false;
    for (let attempt = 1; ; attempt++) {
      try {
        const reply = await run(deadline);
        this.#report(method, began, attempt, "OK");
        return reply;
      } catch (thrown) {
        if (signal?.aborted || this.isClosed) this.#report(method, began, attempt, "CANCELLED");
        signal?.throwIfAborted();
        this.closing.throwIfAborted();
        const error = this.#errorOf(thrown as ServiceError, method);
        const isRotated: boolean = error instanceof Unauthenticated && !hasReadToken && this.#rereadToken();
        hasReadToken ||= isRotated;
        const delay = isRotated ? 0 : delayBefore(attempt + 1, error);
        const mayRetry = isRotated || (isWaiting && isTransient(error, attempt));
        if (!mayRetry || Date.now() + delay >= deadline) {
          this.counters.errors++;
          this.#report(method, began, attempt, error.code);
          throw error;
        }
        this.counters.retries++;
        if (delay > 0) await sleep(delay, signal === undefined ? this.closing : AbortSignal.any([signal, this.closing]));
      }
    }
  }

  /** As `unary`, or what the fallback loads if the sidecar is away. */
  async withFallback<T>(run: (isWaiting: boolean) => Promise<T>, fallback: (() => Promise<T> | T) | undefined): Promise<T> {
    if (fallback === undefined) return run(true);
    try {
      const found = await run(false);
      if (this.#isAway) {
        this.#isAway = false;
        this.#log(`the cache sidecar at ${this.address} answers again: fallbacks end`);
      }
      return found;
    } catch (error) {
      if (!(error instanceof Unavailable || error instanceof DeadlineExceeded)) throw error;
      if (!this.#isAway) {
        this.#isAway = true;
        this.#log(`the cache sidecar at ${this.address} is away, so fallbacks are used: ${error.message}`);
      }
      if (this.#runningFallbacks >= (this.options.maxFallbacks ?? 16)) {
        this.counters.refusedFallbacks++;
        throw error;
      }
      this.counters.fallbacks++;
      this.#runningFallbacks++;
      try {
        return await fallback();
      } finally {
        this.#runningFallbacks--;
      }
    }
  }

  /** Yields the messages of a stream until it ends or fails. */
  async *serverStream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>,
    init: MessageInitShape<I>,
    signal: AbortSignal,
  ): AsyncGenerator<MessageShape<O>> {
    signal.throwIfAborted();
    const request = toBinary(method.input, create(method.input, init));
    const metadata = this.#metadata(method, false);
    const stream: ClientReadableStream<Uint8Array> = withoutStackTraces(() =>
      this.#client.makeServerStreamRequest(pathOf(method), bufferOf, identity, request, metadata),
    );
    const cancel = () => stream.cancel();
    signal.addEventListener("abort", cancel, { once: true });
    try {
      for await (const bytes of stream as AsyncIterable<Uint8Array>) yield fromBinary(method.output, bytes);
    } catch (error) {
      signal.throwIfAborted();
      throw this.#errorOf(error as ServiceError, method);
    } finally {
      signal.removeEventListener("abort", cancel);
      stream.cancel();
    }
  }

  /** Sends one message as a stream, and returns the reply: for methods of which a message may be repeated. */
  async clientStream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodClientStreaming<I, O>,
    init: MessageInitShape<I>,
    { timeout = 30_000, signal }: CallOptions,
  ): Promise<MessageShape<O>> {
    const request = toBinary(method.input, create(method.input, init));
    const attempt = (deadline: number) =>
      new Promise<Uint8Array>((resolve, reject) => {
        const cancel = () => stream.cancel();
        const metadata = this.#metadata(method, true);
        const stream = this.#client.makeClientStreamRequest<Uint8Array, Uint8Array>(
          pathOf(method),
          bufferOf,
          identity,
          metadata,
          { deadline },
          (error, reply) => {
            this.#running.delete(stream);
            signal?.removeEventListener("abort", cancel);
            if (error) reject(error);
            else resolve(reply as Uint8Array);
          },
        );
        this.#running.add(stream);
        signal?.addEventListener("abort", cancel, { once: true });
        stream.end(request);
      });
    return fromBinary(method.output, await this.#retry(method, timeout, signal, true, attempt));
  }

  /**
   * Yields the reply to each message, which is sent when the one before is answered; over a stream that is opened again when it
   * breaks. What was not answered is then sent again: for methods of which a message may be repeated.
   */
  async *exchange<I extends DescMessage, O extends DescMessage>(
    method: DescMethodBiDiStreaming<I, O>,
    messages: AsyncIterable<MessageInitShape<I>> | Iterable<MessageInitShape<I>>,
    { timeout = this.#timeout(method), signal }: CallOptions,
  ): AsyncGenerator<MessageShape<O>> {
    let stream: ClientDuplexStream<Uint8Array, Uint8Array> | undefined;
    let replies: AsyncIterator<Uint8Array> | undefined;
    const cancel = () => stream?.cancel();
    const running = { cancel };
    this.#running.add(running);
    signal?.addEventListener("abort", cancel, { once: true });
    const send = async (request: Uint8Array, deadline: number): Promise<Uint8Array> => {
      // Node.js fires at once after more than that.
      const timer = setTimeout(cancel, Math.min(deadline - Date.now(), 2 ** 31 - 1));
      try {
        if (stream === undefined) {
          const metadata = this.#metadata(method, true);
          stream = this.#client.makeBidiStreamRequest<Uint8Array, Uint8Array>(pathOf(method), bufferOf, identity, metadata);
          replies = (stream as AsyncIterable<Uint8Array>)[Symbol.asyncIterator]();
        }
        stream.write(request);
        const { done, value } = await (replies as AsyncIterator<Uint8Array>).next();
        if (done) throw Object.assign(new Error(), { code: status.UNAVAILABLE, details: "the stream has ended", metadata: new Metadata() });
        return value;
      } catch (error) {
        stream = undefined;
        throw error;
      } finally {
        clearTimeout(timer);
      }
    };
    try {
      for await (const init of messages) {
        const request = toBinary(method.input, create(method.input, init));
        yield fromBinary(method.output, await this.#retry(method, timeout, signal, true, (deadline) => send(request, deadline)));
      }
      // TypeScript does not see that `send` assigns it.
      const last = stream as ClientDuplexStream<Uint8Array, Uint8Array> | undefined;
      last?.end();
      if (last !== undefined) await replies?.next().catch(() => undefined);
    } finally {
      this.#running.delete(running);
      signal?.removeEventListener("abort", cancel);
      cancel();
    }
  }

  /** Returns when the sidecar says that it is ready (grpc.health.v1). */
  async ready({ timeout = 30_000, signal }: CallOptions = {}): Promise<void> {
    const deadline = Date.now() + timeout;
    for (let attempt = 1; ; attempt++) {
      const problem = await this.#unready(deadline, signal);
      if (problem === undefined) return;
      signal?.throwIfAborted();
      this.closing.throwIfAborted();
      if (Date.now() + MAX_DELAY >= deadline) throw problem;
      await sleep(backoff(attempt), signal);
    }
  }

  /** Returns why the sidecar is not ready; nothing if it is. */
  async #unready(deadline: number, signal: AbortSignal | undefined): Promise<SidecarError | undefined> {
    const method = { name: "Check", parent: { typeName: "grpc.health.v1.Health", name: "Health" } } as AnyMethod;
    const failed = (message: string) =>
      errorOf(Object.assign(new Error(message), { code: status.UNAVAILABLE, details: message, metadata: new Metadata() }), "ready");
    try {
      // An empty HealthCheckRequest asks for the server as a whole. In the reply, field 1 is the status, and 1 is SERVING.
      const [tag, serving] = await this.#attempt(method, new Uint8Array(), deadline, true, signal);
      return tag === 8 && serving === 1 ? undefined : failed(`the cache sidecar at ${this.address} is not ready yet`);
    } catch (error) {
      const { code, details } = error as ServiceError;
      if (code === status.DEADLINE_EXCEEDED) return failed(`no cache sidecar answers at ${this.address}`);
      return failed(`the cache sidecar at ${this.address}: ${details}`);
    }
  }

  #attempt(
    method: AnyMethod,
    request: Uint8Array,
    deadline: number,
    isWaiting: boolean,
    signal: AbortSignal | undefined,
  ): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      const metadata = this.#metadata(method, isWaiting);
      const cancel = () => call.cancel();
      const call = withoutStackTraces(() =>
        this.#client.makeUnaryRequest(pathOf(method), bufferOf, identity, request, metadata, { deadline }, (error, reply) => {
          this.#running.delete(call);
          signal?.removeEventListener("abort", cancel);
          if (error) reject(error);
          else resolve(reply as Uint8Array);
        }),
      );
      this.#running.add(call);
      signal?.addEventListener("abort", cancel, { once: true });
    });
  }

  #metadata(method: AnyMethod, waitForReady: boolean): Metadata {
    // grpc-js does not read waitForReady from a service config.
    const metadata = new Metadata({ waitForReady });
    const token = this.#token();
    if (token !== "") metadata.set("authorization", `Bearer ${token}`);
    const headers = this.options.hooks?.headers?.(`${method.parent.name}/${method.name}`);
    for (const name in headers) metadata.set(name, headers[name] as string);
    return metadata;
  }

  #rereadToken(): boolean {
    const before = this.#token();
    return this.options.tokenFile !== undefined && this.#token(true) !== before;
  }

  #request<I extends DescMessage>(method: { input: I }, init: MessageInitShape<I>, requestId: string | undefined): MessageShape<I> {
    const message = create(method.input, init);
    // Every write has this field, so each of them can be repeated.
    if ("requestId" in message && !message.requestId) (message as { requestId: string }).requestId = requestId ?? randomUUID();
    return message;
  }

  #timeout(method: AnyMethod): number {
    if (READS.test(method.name)) return this.options.readTimeout ?? 2_000;
    return this.options.writeTimeout ?? 5_000;
  }

  #errorOf(error: ServiceError, method: AnyMethod): SidecarError {
    if (typeof error.code !== "number") throw error;
    if (error.code === status.DEADLINE_EXCEEDED && this.#client.getChannel().getConnectivityState(false) !== connectivityState.READY)
      error.details = `no cache sidecar answers at ${this.address}, and the deadline has passed`;
    return errorOf(error, `${method.parent.name}/${method.name}`);
  }

  #report(method: AnyMethod, began: number, attempts: number, code: string): void {
    const { hooks } = this.options;
    if (hooks?.onCall) {
      const milliseconds = performance.now() - began;
      try {
        hooks.onCall({ method: `${method.parent.name}/${method.name}`, milliseconds, attempts, code });
      } catch (error) {
        // A write that was made must not look as if it had failed.
        if (!this.#hasHookFailed) this.#log(`hooks.onCall has failed, which is logged once: ${String(error)}`);
        this.#hasHookFailed = true;
      }
    }
  }

  #log(line: string): void {
    (this.options.log ?? console.warn)(line);
  }
}

/** Whether a later attempt may succeed. */
function isTransient(error: SidecarError, attempt: number): boolean {
  if (error instanceof Overloaded) return error.retryAfter !== undefined && attempt < ATTEMPTS_UNDER_OVERLOAD;
  return error instanceof Unavailable;
}

function delayBefore(attempt: number, error: SidecarError): number {
  return Math.max(backoff(attempt - 1), error.retryAfter ?? 0);
}

/** Returns milliseconds to wait after so many failures: doubled each time, half of it random, so that callers spread. */
export function backoff(failures: number, max = MAX_DELAY): number {
  const full = Math.min(FIRST_DELAY * 2 ** Math.min(failures, 10), max);
  return full * (0.5 + Math.random() / 2);
}

export function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason as Error);
    };
    if (signal?.aborted) return reject(signal.reason as Error);
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/**
 * Returns what `run` returns. grpc-js takes a stack trace of each call, for its own errors, which costs an eighth of the call. Ours
 * are made, with the caller's stack, when a call has failed. A stack trace also keeps what its functions work with, such as a watch, from
 * being garbage.
 */
function withoutStackTraces<T>(run: () => T): T {
  const limit = Error.stackTraceLimit;
  // It fails where the intrinsics are frozen.
  if (!Reflect.set(Error, "stackTraceLimit", 0)) return run();
  try {
    return run();
  } finally {
    Error.stackTraceLimit = limit;
  }
}

const paths = new WeakMap<object, string>();

function pathOf(method: AnyMethod): string {
  let path = paths.get(method);
  if (path === undefined) paths.set(method, (path = `/${method.parent.typeName}/${method.name}`));
  return path;
}

function identity<T>(bytes: T): T {
  return bytes;
}

/** Returns the same memory as the type that grpc-js writes. */
function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
