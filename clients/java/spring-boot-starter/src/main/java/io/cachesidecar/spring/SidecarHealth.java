package io.cachesidecar.spring;

import io.cachesidecar.client.CacheSidecar;
import java.time.Duration;
import org.springframework.boot.actuate.health.AbstractHealthIndicator;
import org.springframework.boot.actuate.health.Health;

/** Whether the sidecar is ready to answer. */
class SidecarHealth extends AbstractHealthIndicator {
  private static final Duration PATIENCE = Duration.ofSeconds(1);
  private final CacheSidecar shop;

  SidecarHealth(CacheSidecar shop) {
    super("the cache sidecar is not ready");
    this.shop = shop;
  }

  @Override
  protected void doHealthCheck(Health.Builder health) {
    health.withDetail("address", shop.address());
    shop.ready(PATIENCE);
    health.up();
  }
}
