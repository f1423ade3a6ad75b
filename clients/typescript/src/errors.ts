/** Errors by reason: `catch (error) { if (error instanceof OutOfStock) error.available }`. */
import { fromBinary, type DescMessage, type Message } from "@bufbuild/protobuf";
import { durationMs, type Duration } from "@bufbuild/protobuf/wkt";
import { status as grpcStatus, type ServiceError } from "@grpc/grpc-js";

import { CartSchema } from "./gen/cache_sidecar/v1/cart_pb.js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";
import { Cart } from "./model.js";

export interface Violation {
  /** The path of the invalid field, such as `product.price.nanos`. */
  field: string;
  description: string;
}

/** What the sidecar said of a failed call. */
export interface Failure {
  message: string;
  /** The gRPC status, such as `NOT_FOUND`. */
  code: string;
  /** The sidecar's reason, such as `ETAG_MISMATCH`; empty if the failure is not the sidecar's own. */
  reason: string;
  metadata: Readonly<Record<string, string>>;
  violations: readonly Violation[];
  /** After how many milliseconds to retry, if the sidecar said so. */
  retryAfter: number | undefined;
  /** The current cart, in an ETAG_MISMATCH of a cart that is not too large. */
  cart: Cart | undefined;
  /** Such as `ProductService/GetProduct`. */
  call: string;
}

/** Base of every error of a call. An aborted call throws the reason of its signal instead. */
export class SidecarError extends Error {
  readonly code: string;
  readonly reason: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly violations: readonly Violation[];
  readonly retryAfter: number | undefined;
  readonly call: string;

  constructor(failure: Failure) {
    super(failure.message);
    this.name = new.target.name;
    this.code = failure.code;
    this.reason = failure.reason;
    this.metadata = failure.metadata;
    this.violations = failure.violations;
    this.retryAfter = failure.retryAfter;
    this.call = failure.call;
  }
}

/** The sidecar cannot be reached, is stopping, or none of its tiers could answer. */
export class Unavailable extends SidecarError {
  /** The tier that does not answer the sidecar, such as `PostgreSQL`; empty if it is the sidecar that does not. */
  get tier(): string {
    return this.metadata["tier"] ?? "";
  }
}
/** The sessions have ended in PostgreSQL, but other sidecars may still accept them. */
export class RevocationPending extends Unavailable {}
/** The deadline passed. A change may or may not have been made. */
export class DeadlineExceeded extends SidecarError {}
/** Too much work is waiting; retry after `retryAfter` milliseconds. */
export class Overloaded extends SidecarError {}
/** As many user events as may wait for the relay are waiting. */
export class EventBacklogFull extends Overloaded {}
/** The request violates a rule: see `violations`. */
export class InvalidRequest extends SidecarError {}
/** A request ID was used for another request before. */
export class RequestIdReused extends InvalidRequest {}

class ResourceError extends SidecarError {
  /** Such as `product`. */
  get resource(): string {
    return this.metadata["resource"] ?? "";
  }
  get id(): string {
    return this.metadata["id"] ?? "";
  }
}
export class NotFound extends ResourceError {}
export class AlreadyExists extends ResourceError {}
/** The row in PostgreSQL holds a value that the API cannot represent. */
export class UnreadableRow extends ResourceError {}
/** The resource has changed since its etag was read. */
export class EtagMismatch extends ResourceError {
  /** The current cart, if the resource is a cart and not too large. */
  readonly cart: Cart | undefined;
  constructor(failure: Failure) {
    super(failure);
    this.cart = failure.cart;
  }
  /** The current etag; empty if the resource does not exist. */
  get etag(): string {
    return this.metadata["etag"] ?? "";
  }
}

export class OutOfStock extends SidecarError {
  get productId(): string {
    return this.metadata["product_id"] ?? "";
  }
  /** How many pieces can be reserved. */
  get available(): number {
    return Number(this.metadata["available"] ?? 0);
  }
}
export class LimitReached extends SidecarError {
  get what(): string {
    return this.metadata["what"] ?? "";
  }
  get limit(): number {
    return Number(this.metadata["limit"] ?? 0);
  }
}
/** The reply would be larger than the sidecar's `max_message_bytes`: request less at once. */
export class ReplyTooLarge extends SidecarError {
  get size(): number {
    return Number(this.metadata["size"] ?? 0);
  }
  get limit(): number {
    return Number(this.metadata["limit"] ?? 0);
  }
}
export class ReservationEnded extends SidecarError {
  get reservationId(): string {
    return this.metadata["reservation_id"] ?? "";
  }
  /** How it ended, such as `committed`. */
  get state(): string {
    return this.metadata["state"] ?? "";
  }
}
export class BucketsInUse extends SidecarError {
  get productId(): string {
    return this.metadata["product_id"] ?? "";
  }
}
/** The shop's own tables are a view that cannot be written. */
export class ReadOnly extends SidecarError {}
/** The changes to resume from are no longer retained. */
export class ChangesExpired extends SidecarError {}
export class WatchTooSlow extends SidecarError {}
/** An import of recommendations must continue with list `nextList`. */
export class ListsMissing extends SidecarError {
  get nextList(): bigint {
    return BigInt(this.metadata["next_list"] ?? 0);
  }
}
export class BatchCommitted extends SidecarError {}
/** No valid token or certificate. */
export class Unauthenticated extends SidecarError {}
/** The caller lacks a role, or its name is not allowed. */
export class PermissionDenied extends SidecarError {}

type Kind = new (failure: Failure) => SidecarError;

const BY_REASON: Readonly<Record<string, Kind>> = {
  ALREADY_EXISTS: AlreadyExists,
  BATCH_COMMITTED: BatchCommitted,
  BUCKETS_IN_USE: BucketsInUse,
  CHANGES_EXPIRED: ChangesExpired,
  CLIENT_NOT_ALLOWED: PermissionDenied,
  DEADLINE_EXCEEDED: DeadlineExceeded,
  DRAINING: Unavailable,
  ETAG_MISMATCH: EtagMismatch,
  EVENT_BACKLOG_FULL: EventBacklogFull,
  INVALID_CERTIFICATE: Unauthenticated,
  INVALID_REQUEST: InvalidRequest,
  INVALID_TOKEN: Unauthenticated,
  LIMIT_REACHED: LimitReached,
  LISTS_MISSING: ListsMissing,
  NOT_FOUND: NotFound,
  OUT_OF_STOCK: OutOfStock,
  OVERLOADED: Overloaded,
  READ_ONLY: ReadOnly,
  REPLY_TOO_LARGE: ReplyTooLarge,
  REQUEST_ID_REUSED: RequestIdReused,
  RESERVATION_ENDED: ReservationEnded,
  REVOCATION_PENDING: RevocationPending,
  ROLE_MISSING: PermissionDenied,
  TIER_BUSY: Overloaded,
  TIER_UNAVAILABLE: Unavailable,
  UNREADABLE_ROW: UnreadableRow,
  WATCH_TOO_SLOW: WatchTooSlow,
};

/** For failures of gRPC itself, and reasons of a later version of the sidecar. */
const BY_CODE: Readonly<Record<string, Kind>> = {
  ALREADY_EXISTS: AlreadyExists,
  // The server sends it only when it stops.
  CANCELLED: Unavailable,
  DEADLINE_EXCEEDED: DeadlineExceeded,
  INVALID_ARGUMENT: InvalidRequest,
  NOT_FOUND: NotFound,
  PERMISSION_DENIED: PermissionDenied,
  RESOURCE_EXHAUSTED: Overloaded,
  UNAUTHENTICATED: Unauthenticated,
  UNAVAILABLE: Unavailable,
};

/** Returns the error of a failed call. `call` is such as `ProductService/GetProduct`. */
export function errorOf(error: ServiceError, call: string): SidecarError {
  const failure: Failure = {
    message: error.details,
    code: grpcStatus[error.code] ?? "UNKNOWN",
    reason: "",
    metadata: {},
    violations: [],
    retryAfter: undefined,
    cart: undefined,
    call,
  };
  for (const { typeUrl, value } of detailsOf(error)) {
    switch (typeUrl.slice(typeUrl.lastIndexOf("/") + 1)) {
      case ErrorInfoSchema.typeName: {
        const info = read(ErrorInfoSchema, value);
        if (info) ({ reason: failure.reason, metadata: failure.metadata } = info);
        break;
      }
      case BadRequestSchema.typeName:
        failure.violations = read(BadRequestSchema, value)?.fieldViolations ?? [];
        break;
      case RetryInfoSchema.typeName:
        failure.retryAfter = milliseconds(read(RetryInfoSchema, value)?.retryDelay);
        break;
      case CartSchema.typeName: {
        const cart = read(CartSchema, value);
        if (cart) failure.cart = Cart.fromMessage(cart);
        break;
      }
    }
  }
  const kind = BY_REASON[failure.reason] ?? BY_CODE[failure.code] ?? SidecarError;
  return new kind(failure);
}

function detailsOf(error: ServiceError): { typeUrl: string; value: Uint8Array }[] {
  const [bytes] = error.metadata?.get("grpc-status-details-bin") ?? [];
  return bytes instanceof Uint8Array ? (read(StatusSchema, bytes)?.details ?? []) : [];
}

/** Returns a message, or nothing if something between us and the sidecar damaged it: the status is still worth having. */
function read<D extends DescMessage>(schema: D, bytes: Uint8Array) {
  try {
    return fromBinary(schema, bytes);
  } catch {
    return undefined;
  }
}

export function milliseconds(duration: (Duration & Message) | undefined): number | undefined {
  return duration && durationMs(duration);
}
