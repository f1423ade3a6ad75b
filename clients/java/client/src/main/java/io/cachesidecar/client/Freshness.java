package io.cachesidecar.client;

import io.cachesidecar.v1.CacheMetadata;
import java.time.Duration;

/**
 * The origin and the age of what was read.
 *
 * @param source the tier that answered: the sidecar's memory, Redis or PostgreSQL, or the client itself
 * @param version grows with every change of the resource
 * @param age the time since the content was last known to match PostgreSQL: an upper bound
 * @param stale whether it may be older than the policy allows
 */
public record Freshness(Source source, long version, Duration age, boolean stale) {
  /** Where it was read from: {@code L0} is the client's own cache, {@code FALLBACK} the application's loader. */
  public enum Source {
    UNSPECIFIED,
    L1,
    L2,
    STORE,
    L0,
    FALLBACK
  }

  static final Freshness LOADED = new Freshness(Source.FALLBACK, 0, Duration.ZERO, true);

  static Freshness of(CacheMetadata message) {
    Source source =
        switch (message.getSource()) {
          case SOURCE_L1 -> Source.L1;
          case SOURCE_L2 -> Source.L2;
          case SOURCE_STORE -> Source.STORE;
          default -> Source.UNSPECIFIED;
        };
    Duration age = Duration.ofSeconds(message.getAge().getSeconds(), message.getAge().getNanos());
    return new Freshness(source, message.getVersion(), age, message.getStale());
  }
}
