import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf";

import { addressOf, type Options } from "./options.js";
import { AdminCalls } from "./services/admin.js";
import { CartCalls } from "./services/carts.js";
import { EventCalls } from "./services/events.js";
import { InventoryCalls } from "./services/inventory.js";
import { ProductCalls } from "./services/products.js";
import { RecommendationCalls } from "./services/recommendations.js";
import { SessionCalls } from "./services/sessions.js";
import { Transport, type CallOptions, type Counters, type WriteOptions } from "./transport.js";

/** A cache sidecar: one connection, for as many callers as there are. */
export class CacheSidecar {
  readonly products: ProductCalls;
  readonly carts: CartCalls;
  readonly sessions: SessionCalls;
  readonly inventory: InventoryCalls;
  readonly recommendations: RecommendationCalls;
  readonly events: EventCalls;
  readonly admin: AdminCalls;
  readonly #transport: Transport;

  constructor(options: Options = {}) {
    const transport = (this.#transport = new Transport(options.address ?? addressOf(), options));
    this.products = new ProductCalls(transport, options);
    this.carts = new CartCalls(transport);
    this.sessions = new SessionCalls(transport);
    this.inventory = new InventoryCalls(transport);
    this.recommendations = new RecommendationCalls(transport);
    this.events = new EventCalls(transport);
    this.admin = new AdminCalls(transport);
  }

  /** `host:port`, or `unix:/path`. */
  get address(): string {
    return this.#transport.address;
  }

  /** What has happened so far, for metrics. */
  get counters(): Readonly<Counters> {
    return this.#transport.counters;
  }

  /** Returns when the sidecar is ready to answer; throws Unavailable if it is not within `timeout` (30,000 ms). */
  async ready(options: CallOptions = {}): Promise<void> {
    await this.#transport.ready(options);
  }

  /**
   * Makes a call of a method of the protos (`@cache-sidecar/client/stubs`), with everything that the library does for its own
   * calls: deadline, retries, request ID, errors by reason.
   */
  async call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options: WriteOptions = {},
  ): Promise<MessageShape<O>> {
    return this.#transport.unary(method, request, options);
  }

  /** Ends every call and watch, and the connection. */
  close(): void {
    this.#transport.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Returns a client of the pod's sidecar. It connects when it is first needed; `await shop.ready()` waits for the sidecar. */
export function connect(options: Options = {}): CacheSidecar {
  return new CacheSidecar(options);
}
