package io.cachesidecar.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;
import java.util.function.Function;

/**
 * The failure of a call, with a subclass for each reason of the sidecar: {@code catch (SidecarException.OutOfStock e)}. A future
 * that is joined throws it as the cause of a CompletionException; {@link CacheSidecar#await} throws it as it is.
 */
public class SidecarException extends RuntimeException {
  private static final long serialVersionUID = 1;
  private static final Map<String, Function<Failure, SidecarException>> BY_REASON =
      Map.ofEntries(
          Map.entry("ALREADY_EXISTS", AlreadyExists::new),
          Map.entry("BATCH_COMMITTED", BatchCommitted::new),
          Map.entry("BUCKETS_IN_USE", BucketsInUse::new),
          Map.entry("CHANGES_EXPIRED", ChangesExpired::new),
          Map.entry("CLIENT_NOT_ALLOWED", PermissionDenied::new),
          Map.entry("DEADLINE_EXCEEDED", DeadlineExceeded::new),
          Map.entry("DRAINING", Unavailable::new),
          Map.entry("ETAG_MISMATCH", EtagMismatch::new),
          Map.entry("EVENT_BACKLOG_FULL", EventBacklogFull::new),
          Map.entry("INVALID_CERTIFICATE", Unauthenticated::new),
          Map.entry("INVALID_REQUEST", InvalidRequest::new),
          Map.entry("INVALID_TOKEN", Unauthenticated::new),
          Map.entry("LIMIT_REACHED", LimitReached::new),
          Map.entry("LISTS_MISSING", ListsMissing::new),
          Map.entry("NOT_FOUND", NotFound::new),
          Map.entry("OUT_OF_STOCK", OutOfStock::new),
          Map.entry("OVERLOADED", Overloaded::new),
          Map.entry("READ_ONLY", ReadOnly::new),
          Map.entry("REPLY_TOO_LARGE", ReplyTooLarge::new),
          Map.entry("REQUEST_ID_REUSED", RequestIdReused::new),
          Map.entry("RESERVATION_ENDED", ReservationEnded::new),
          Map.entry("REVOCATION_PENDING", RevocationPending::new),
          Map.entry("ROLE_MISSING", PermissionDenied::new),
          Map.entry("TIER_BUSY", Overloaded::new),
          Map.entry("TIER_UNAVAILABLE", Unavailable::new),
          Map.entry("UNREADABLE_ROW", UnreadableRow::new),
          Map.entry("WATCH_TOO_SLOW", WatchTooSlow::new));

  /** For failures of gRPC itself, and reasons of a later version of the sidecar. */
  private static final Map<Status.Code, Function<Failure, SidecarException>> BY_CODE =
      Map.of(
          Status.Code.ALREADY_EXISTS, AlreadyExists::new,
          // The server sends it only when it stops.
          Status.Code.CANCELLED, Unavailable::new,
          Status.Code.DEADLINE_EXCEEDED, DeadlineExceeded::new,
          Status.Code.INVALID_ARGUMENT, InvalidRequest::new,
          Status.Code.NOT_FOUND, NotFound::new,
          Status.Code.PERMISSION_DENIED, PermissionDenied::new,
          Status.Code.RESOURCE_EXHAUSTED, Overloaded::new,
          Status.Code.UNAUTHENTICATED, Unauthenticated::new,
          Status.Code.UNAVAILABLE, Unavailable::new);

  private final transient Failure failure;

  SidecarException(Failure failure) {
    super(failure.message());
    this.failure = failure;
  }

  /** What the sidecar said. */
  record Failure(
      String message,
      Status.Code code,
      String reason,
      Map<String, String> metadata,
      Map<String, String> violations,
      Duration retryAfter,
      io.cachesidecar.v1.Cart cart) {}

  /** Returns the exception of a failed call; {@code problem} replaces the message of gRPC itself. */
  static SidecarException of(Throwable thrown, String problem) {
    if (thrown instanceof SidecarException known) return known;
    Status status = Status.fromThrowable(thrown);
    String message = status.getDescription() == null ? status.getCode().name() : status.getDescription();
    String reason = "";
    Map<String, String> metadata = Map.of();
    Map<String, String> violations = new LinkedHashMap<>();
    Duration retryAfter = null;
    io.cachesidecar.v1.Cart cart = null;
    com.google.rpc.Status details = StatusProto.fromThrowable(thrown);
    try {
      for (Any detail : details == null ? java.util.List.<Any>of() : details.getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          ErrorInfo info = detail.unpack(ErrorInfo.class);
          reason = info.getReason();
          metadata = info.getMetadataMap();
        } else if (detail.is(BadRequest.class)) {
          detail.unpack(BadRequest.class).getFieldViolationsList().forEach(v -> violations.put(v.getField(), v.getDescription()));
        } else if (detail.is(RetryInfo.class)) {
          var delay = detail.unpack(RetryInfo.class).getRetryDelay();
          retryAfter = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
        } else if (detail.is(io.cachesidecar.v1.Cart.class)) {
          cart = detail.unpack(io.cachesidecar.v1.Cart.class);
        }
      }
    } catch (InvalidProtocolBufferException damaged) {
      // Something between us and the sidecar has damaged the details: the status is still worth having.
    }
    if (reason.isEmpty() && problem != null) message = problem + ": " + message;
    Failure failure = new Failure(message, status.getCode(), reason, metadata, violations, retryAfter, cart);
    var byCode = BY_CODE.getOrDefault(status.getCode(), SidecarException::new);
    return BY_REASON.getOrDefault(reason, byCode).apply(failure);
  }

  static NotFound notFound(String resource, String id) {
    String message = "there is no " + resource + " '" + id + "'";
    var metadata = Map.of("resource", resource, "id", id);
    return new NotFound(new Failure(message, Status.Code.NOT_FOUND, "NOT_FOUND", metadata, Map.of(), null, null));
  }

  /** The gRPC status. */
  public Status.Code code() {
    return failure.code();
  }

  /** The sidecar's reason, such as {@code ETAG_MISMATCH}; empty if the failure is not the sidecar's own. */
  public String reason() {
    return failure.reason();
  }

  public Map<String, String> metadata() {
    return failure.metadata();
  }

  /** What is wrong with each invalid field, by its path. */
  public Map<String, String> violations() {
    return failure.violations();
  }

  /** After how long to retry, if the sidecar said so. */
  public Optional<Duration> retryAfter() {
    return Optional.ofNullable(failure.retryAfter());
  }

  final String value(String name) {
    return failure.metadata().getOrDefault(name, "");
  }

  final long number(String name) {
    return Long.parseLong(failure.metadata().getOrDefault(name, "0"));
  }

  /** The sidecar cannot be reached, is stopping, or none of its tiers could answer. */
  public static class Unavailable extends SidecarException {
    Unavailable(Failure failure) {
      super(failure);
    }

    /** The tier that does not answer the sidecar, such as {@code PostgreSQL}; empty if it is the sidecar that does not. */
    public String tier() {
      return value("tier");
    }
  }

  /** The sessions have ended in PostgreSQL, but other sidecars may still accept them. */
  public static final class RevocationPending extends Unavailable {
    RevocationPending(Failure failure) {
      super(failure);
    }
  }

  /** The deadline passed. A change may or may not have been made. */
  public static final class DeadlineExceeded extends SidecarException {
    DeadlineExceeded(Failure failure) {
      super(failure);
    }
  }

  /** Too much work is waiting. */
  public static class Overloaded extends SidecarException {
    Overloaded(Failure failure) {
      super(failure);
    }
  }

  /** As many user events as may wait for the relay are waiting. */
  public static final class EventBacklogFull extends Overloaded {
    EventBacklogFull(Failure failure) {
      super(failure);
    }
  }

  /** The request violates a rule: see {@link #violations}. */
  public static class InvalidRequest extends SidecarException {
    InvalidRequest(Failure failure) {
      super(failure);
    }
  }

  /** A request ID was used for another request before. */
  public static final class RequestIdReused extends InvalidRequest {
    RequestIdReused(Failure failure) {
      super(failure);
    }
  }

  /** Something about one resource. */
  abstract static class OfResource extends SidecarException {
    OfResource(Failure failure) {
      super(failure);
    }

    /** Such as {@code product}. */
    public String resource() {
      return value("resource");
    }

    public String id() {
      return value("id");
    }
  }

  public static final class NotFound extends OfResource {
    NotFound(Failure failure) {
      super(failure);
    }
  }

  public static final class AlreadyExists extends OfResource {
    AlreadyExists(Failure failure) {
      super(failure);
    }
  }

  /** The row in PostgreSQL holds a value that the API cannot represent. */
  public static final class UnreadableRow extends OfResource {
    UnreadableRow(Failure failure) {
      super(failure);
    }
  }

  /** The resource has changed since its etag was read. */
  public static final class EtagMismatch extends OfResource {
    private final transient io.cachesidecar.v1.Cart cart;

    EtagMismatch(Failure failure) {
      super(failure);
      cart = failure.cart();
    }

    /** The current etag; empty if the resource does not exist. */
    public String etag() {
      return value("etag");
    }

    /** The current cart, if the resource is a cart and not too large. */
    public Optional<Cart> cart() {
      return Optional.ofNullable(cart).map(message -> new Cart(message, null));
    }
  }

  public static final class OutOfStock extends SidecarException {
    OutOfStock(Failure failure) {
      super(failure);
    }

    public String productId() {
      return value("product_id");
    }

    /** How many pieces can be reserved. */
    public long available() {
      return number("available");
    }
  }

  public static final class LimitReached extends SidecarException {
    LimitReached(Failure failure) {
      super(failure);
    }

    public String what() {
      return value("what");
    }

    public long limit() {
      return number("limit");
    }
  }

  /** The reply would be larger than the sidecar's {@code max_message_bytes}: request less at once. */
  public static final class ReplyTooLarge extends SidecarException {
    ReplyTooLarge(Failure failure) {
      super(failure);
    }

    public long size() {
      return number("size");
    }

    public long limit() {
      return number("limit");
    }
  }

  public static final class ReservationEnded extends SidecarException {
    ReservationEnded(Failure failure) {
      super(failure);
    }

    public String reservationId() {
      return value("reservation_id");
    }

    /** How it ended, such as {@code committed}. */
    public String state() {
      return value("state");
    }
  }

  public static final class BucketsInUse extends SidecarException {
    BucketsInUse(Failure failure) {
      super(failure);
    }

    public String productId() {
      return value("product_id");
    }
  }

  /** The shop's own tables are a view that cannot be written. */
  public static final class ReadOnly extends SidecarException {
    ReadOnly(Failure failure) {
      super(failure);
    }
  }

  /** The changes to resume from are no longer retained. */
  public static final class ChangesExpired extends SidecarException {
    ChangesExpired(Failure failure) {
      super(failure);
    }
  }

  public static final class WatchTooSlow extends SidecarException {
    WatchTooSlow(Failure failure) {
      super(failure);
    }
  }

  /** An import of recommendations must continue with list {@link #nextList}. */
  public static final class ListsMissing extends SidecarException {
    ListsMissing(Failure failure) {
      super(failure);
    }

    public long nextList() {
      return number("next_list");
    }
  }

  public static final class BatchCommitted extends SidecarException {
    BatchCommitted(Failure failure) {
      super(failure);
    }
  }

  /** No valid token or certificate. */
  public static final class Unauthenticated extends SidecarException {
    Unauthenticated(Failure failure) {
      super(failure);
    }
  }

  /** The caller lacks a role, or its name is not allowed. */
  public static final class PermissionDenied extends SidecarException {
    PermissionDenied(Failure failure) {
      super(failure);
    }
  }
}
