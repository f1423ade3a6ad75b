package io.cachesidecar.spring;

import io.cachesidecar.client.CallInfo;
import io.cachesidecar.client.Counters;
import io.micrometer.core.instrument.FunctionCounter;
import io.micrometer.core.instrument.MeterRegistry;
import io.micrometer.core.instrument.Timer;
import java.util.function.ToDoubleFunction;

/** What the client does, in the application's metrics. */
final class SidecarMeters {
  private static final String PREFIX = "cache.sidecar.client.";

  private SidecarMeters() {}

  static void record(CallInfo call, MeterRegistry registry) {
    Timer.builder(PREFIX + "calls")
        .description("Calls of the sidecar, with their retries")
        .tags("method", call.method(), "code", call.code().name())
        .register(registry)
        .record(call.time());
  }

  static void bind(Counters counters, MeterRegistry registry) {
    count("retries", "Attempts after the first", counters, Counters::retries, registry);
    count("fallbacks", "Reads answered by a fallback", counters, Counters::fallbacks, registry);
    count("fallbacks.refused", "Fallbacks that were not run, as too many were running", counters, Counters::refusedFallbacks, registry);
    count("gets.joined", "Gets that were sent in a batch with others", counters, Counters::joinedGets, registry);
    count("local.hits", "Gets answered by the local cache", counters, Counters::localHits, registry);
    count("local.misses", "Gets that the local cache could not answer", counters, Counters::localMisses, registry);
  }

  private static void count(
      String name, String description, Counters counters, ToDoubleFunction<Counters> value, MeterRegistry registry) {
    FunctionCounter.builder(PREFIX + name, counters, value).description(description).register(registry);
  }
}
