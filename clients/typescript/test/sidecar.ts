/** A server with the sidecar's services, of which a test says what each call is answered; the channel is real. */
import { create, fromBinary, toBinary, type DescMethod, type Message } from "@bufbuild/protobuf";
import { anyPack, durationFromMs } from "@bufbuild/protobuf/wkt";
import { Metadata, Server, ServerCredentials, status, type ServerDuplexStream, type ServerWritableStream, type ServerUnaryCall } from "@grpc/grpc-js";

import { connect, type CacheSidecar, type Options } from "../src/index.js";
import { CartService, ErrorInfoSchema, ProductService, RetryInfoSchema, StatusSchema, UserEventService } from "../src/stubs.js";

export interface Call {
  method: string;
  request: Message & Record<string, unknown>;
  headers: Metadata;
  deadline: number;
}

type Fields = Record<string, unknown>;
type Reply = Fields | Failed;
/** Gets the number of the call of its method, from 1. */
export type Answer = (call: Call, number: number) => Reply | Promise<Reply>;
type Messages = (call: Call, number: number) => AsyncIterable<Fields>;

/** What a call fails with. */
export class Failed extends Error {
  constructor(
    readonly code: status,
    readonly reason = "",
    readonly metadata: Record<string, string> = {},
    readonly retryAfter?: number,
    readonly more: Parameters<typeof anyPack>[1][] = [],
  ) {
    super(`failed: ${reason}`);
  }

  get error() {
    const details = this.reason === "" ? [] : [anyPack(ErrorInfoSchema, create(ErrorInfoSchema, this as never))];
    if (this.retryAfter !== undefined)
      details.push(anyPack(RetryInfoSchema, create(RetryInfoSchema, { retryDelay: durationFromMs(this.retryAfter) })));
    const metadata = new Metadata();
    const bytes = toBinary(StatusSchema, create(StatusSchema, { code: this.code, message: this.message, details }));
    metadata.set("grpc-status-details-bin", Buffer.from(bytes));
    return { code: this.code, details: this.message, metadata };
  }
}

export class Sidecar {
  readonly calls: Call[] = [];
  /** How many streams a client has ended. */
  cancelled = 0;
  #server: Server | undefined;
  #port = 0;
  readonly #clients: CacheSidecar[] = [];

  constructor(
    private readonly answers: Record<string, Answer>,
    private readonly streams: Record<string, Messages> = {},
  ) {}

  of(method: string): Call[] {
    return this.calls.filter((call) => call.method === method);
  }

  async start(): Promise<this> {
    const server = (this.#server = new Server());
    for (const { typeName, methods } of [ProductService, CartService, UserEventService]) {
      const definitions = Object.fromEntries(methods.map((method) => [method.name, definition(typeName, method)]));
      const handlers = Object.fromEntries(methods.map((method) => [method.name, this.#handler(method)]));
      server.addService(definitions, handlers as never);
    }
    this.#port = await new Promise((resolve, reject) =>
      server.bindAsync(`127.0.0.1:${this.#port}`, ServerCredentials.createInsecure(), (error, port) => (error ? reject(error) : resolve(port))),
    );
    return this;
  }

  kill(): void {
    this.#server?.forceShutdown();
  }

  connect(options: Options = {}): CacheSidecar {
    const shop = connect({ address: `127.0.0.1:${this.#port}`, log: () => undefined, ...options });
    this.#clients.push(shop);
    return shop;
  }

  close(): void {
    for (const client of this.#clients) client.close();
    this.kill();
  }

  #handler(method: DescMethod) {
    const seen = (call: ServerUnaryCall<Message, Message> | ServerWritableStream<Message, Message>): Call => {
      const deadline = call.getDeadline();
      const found = { method: method.name, request: call.request as Call["request"], headers: call.metadata, deadline: Number(deadline) };
      this.calls.push(found);
      return found;
    };
    if (method.methodKind === "server_streaming")
      return async (call: ServerWritableStream<Message, Message>) => {
        call.on("cancelled", () => this.cancelled++);
        const asked = seen(call);
        try {
          for await (const message of this.streams[method.name]?.(asked, this.of(method.name).length) ?? []) call.write(create(method.output, message));
          call.end();
        } catch (error) {
          call.emit("error", error instanceof Failed ? error.error : error);
        }
      };
    if (method.methodKind === "bidi_streaming")
      return async (call: ServerDuplexStream<Message, Message>) => {
        // A client that ends its stream in the middle is no failure here.
        call.on("error", () => undefined);
        // Otherwise the end of the requests would be that of the replies.
        for await (const request of call.iterator({ destroyOnReturn: false }) as AsyncIterable<Call["request"]>) {
          const asked = { method: method.name, request, headers: call.metadata, deadline: Infinity };
          this.calls.push(asked);
          call.write(create(method.output, (await this.answers[method.name]?.(asked, this.of(method.name).length)) as Fields));
        }
        call.end();
      };
    return async (call: ServerUnaryCall<Message, Message>, done: (error: unknown, reply?: Message) => void) => {
      const asked = seen(call);
      const answer = this.answers[method.name];
      const reply = (await answer?.(asked, this.of(method.name).length)) ?? new Failed(status.UNIMPLEMENTED);
      if (reply instanceof Failed) done(reply.error);
      else done(null, create(method.output, reply));
    };
  }
}

function definition(service: string, method: DescMethod) {
  return {
    path: `/${service}/${method.name}`,
    requestStream: method.methodKind === "client_streaming" || method.methodKind === "bidi_streaming",
    responseStream: method.methodKind === "server_streaming" || method.methodKind === "bidi_streaming",
    requestSerialize: (message: Message) => Buffer.from(toBinary(method.input, message)),
    requestDeserialize: (bytes: Buffer) => fromBinary(method.input, bytes),
    responseSerialize: (message: Message) => Buffer.from(toBinary(method.output, message)),
    responseDeserialize: (bytes: Buffer) => fromBinary(method.output, bytes),
  };
}
