package io.cachesidecar.client;

import io.cachesidecar.v1.ReadOptions;
import java.time.Duration;

/**
 * What one call is to have: {@code shop.products().get("mug", With.maxAge(Duration.ofSeconds(5)).timeout(...))}.
 *
 * @param timeout for the call with all its retries; null for the default
 * @param requestId a UUID, to repeat a write that may have been made; null for a new one
 * @param maxAge the maximum age of what is read, zero for PostgreSQL only; null for the sidecar's policy
 * @param bypass whether to read from PostgreSQL, whatever the caches hold
 */
public record With(Duration timeout, String requestId, Duration maxAge, boolean bypass) {
  /** The defaults. */
  public static final With DEFAULTS = new With(null, null, null, false);

  public static With timeout(Duration timeout) {
    return DEFAULTS.andTimeout(timeout);
  }

  public static With maxAge(Duration maxAge) {
    return DEFAULTS.andMaxAge(maxAge);
  }

  public static With requestId(String requestId) {
    return DEFAULTS.andRequestId(requestId);
  }

  /** Reads from PostgreSQL. */
  public static With fromStore() {
    return DEFAULTS.andFromStore();
  }

  public With andTimeout(Duration timeout) {
    return new With(timeout, requestId, maxAge, bypass);
  }

  public With andMaxAge(Duration maxAge) {
    return new With(timeout, requestId, maxAge, bypass);
  }

  public With andRequestId(String requestId) {
    return new With(timeout, requestId, maxAge, bypass);
  }

  public With andFromStore() {
    return new With(timeout, requestId, maxAge, true);
  }

  ReadOptions readOptions() {
    ReadOptions.Builder options = ReadOptions.newBuilder().setBypass(bypass);
    if (maxAge != null) options.setMaxAge(message(maxAge));
    return options.build();
  }

  static com.google.protobuf.Duration message(Duration duration) {
    return com.google.protobuf.Duration.newBuilder().setSeconds(duration.getSeconds()).setNanos(duration.getNano()).build();
  }
}
