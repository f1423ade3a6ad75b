package io.cachesidecar.client;

import java.util.concurrent.atomic.LongAdder;

/** What has happened since the client was made, for metrics. */
public final class Counters {
  final LongAdder calls = new LongAdder();
  final LongAdder retries = new LongAdder();
  final LongAdder errors = new LongAdder();
  final LongAdder fallbacks = new LongAdder();
  final LongAdder refusedFallbacks = new LongAdder();
  final LongAdder joinedGets = new LongAdder();
  final LongAdder localHits = new LongAdder();
  final LongAdder localMisses = new LongAdder();

  Counters() {}

  public long calls() {
    return calls.sum();
  }

  public long retries() {
    return retries.sum();
  }

  /** Calls that failed in the end. */
  public long errors() {
    return errors.sum();
  }

  public long fallbacks() {
    return fallbacks.sum();
  }

  /** Fallbacks that were not run because too many were running. */
  public long refusedFallbacks() {
    return refusedFallbacks.sum();
  }

  /** Gets that went out in a batch with others. */
  public long joinedGets() {
    return joinedGets.sum();
  }

  public long localHits() {
    return localHits.sum();
  }

  public long localMisses() {
    return localMisses.sum();
  }
}
