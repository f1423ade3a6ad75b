import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { UserEventType } from "../gen/cache_sidecar/v1/user_event_pb.js";
import { RefusalReason, UserEventService, type RefusedUserEvent } from "../gen/cache_sidecar/v1/user_event_service_pb.js";
import type { Money } from "../money.js";
import type { CallOptions, Transport, WriteOptions } from "../transport.js";
import { uuid7 } from "../uuid7.js";
import { nameOf, valueOf } from "./recommendations.js";

export type EventType =
  | "detailPageView"
  | "addToCart"
  | "removeFromCart"
  | "purchaseComplete"
  | "search"
  | "homePageView"
  | "shoppingCartPageView";

export interface UserEvent {
  /** A UUID of version 7; made by the library if it is left out, so that a retry does not write the event twice. */
  eventId?: string;
  eventType: EventType;
  /** Now, by default. */
  eventTime?: Date;
  userId: string;
  products?: readonly { productId: string; quantity?: number; unitPrice?: Money }[];
  value?: Money;
  searchQuery?: string;
  attributionToken?: string;
  experimentId?: string;
  variant?: string;
  personalised?: boolean;
}

export interface WrittenEvents {
  /** The ID of each event, in order; empty for one that was not written. */
  readonly eventIds: readonly string[];
  readonly refusedEvents: readonly { readonly index: number; readonly reason: "tooOld" | "inFuture" | ""; readonly message: string }[];
}

const { method: methods } = UserEventService;

export class EventCalls {
  constructor(private readonly transport: Transport) {}

  /** Writes 1 to 500 events. Throws EventBacklogFull. */
  async write(events: readonly UserEvent[], options: CallOptions = {}): Promise<WrittenEvents> {
    return writtenOf(await this.transport.unary(methods.writeUserEvents, { events: events.map(messageOf) }, options));
  }

  /**
   * Writes batches one after the other, and yields what was written of each. A batch that was not answered because the stream
   * broke is sent again, with the same IDs; `timeout` is for each batch.
   */
  async *stream(
    batches: AsyncIterable<readonly UserEvent[]> | Iterable<readonly UserEvent[]>,
    options: CallOptions = {},
  ): AsyncGenerator<WrittenEvents, void, undefined> {
    const requests = async function* () {
      for await (const events of batches) yield { events: events.map(messageOf) };
    };
    for await (const reply of this.transport.exchange(methods.streamUserEvents, requests(), options)) yield writtenOf(reply);
  }

  /** Erases all events of a user; returns how many were erased in PostgreSQL. */
  async purge(userId: string, options: WriteOptions = {}): Promise<bigint> {
    return (await this.transport.unary(methods.purgeUserEvents, { userId }, options)).purgedCount;
  }
}

function messageOf({ eventId, eventType, eventTime, products = [], value, ...plain }: UserEvent) {
  return {
    ...plain,
    eventId: eventId ?? uuid7((eventTime ?? new Date()).getTime()),
    eventType: valueOf(UserEventType, eventType),
    ...(eventTime && { eventTime: timestampFromDate(eventTime) }),
    ...(value && { value: value.toMessage() }),
    products: products.map(({ productId, quantity = 0, unitPrice }) => ({
      productId,
      quantity,
      ...(unitPrice && { unitPrice: unitPrice.toMessage() }),
    })),
  };
}

function writtenOf({ eventIds, refusedEvents }: { eventIds: string[]; refusedEvents: RefusedUserEvent[] }): WrittenEvents {
  const refused = refusedEvents.map(({ index, reason, message }) => ({
    index,
    reason: nameOf(RefusalReason, reason) as "tooOld" | "inFuture" | "",
    message,
  }));
  return { eventIds, refusedEvents: refused };
}
