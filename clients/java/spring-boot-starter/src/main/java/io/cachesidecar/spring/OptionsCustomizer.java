package io.cachesidecar.spring;

import io.cachesidecar.client.Options;

/** A bean that sets what no property does, such as the headers of calls, before the client is made. */
@FunctionalInterface
public interface OptionsCustomizer {
  void customize(Options.Builder options);
}
