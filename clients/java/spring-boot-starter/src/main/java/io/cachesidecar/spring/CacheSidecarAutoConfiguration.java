package io.cachesidecar.spring;

import io.cachesidecar.client.CacheSidecar;
import io.cachesidecar.client.Options;
import io.micrometer.core.instrument.MeterRegistry;
import io.micrometer.core.instrument.binder.MeterBinder;
import org.springframework.beans.factory.ObjectProvider;
import org.springframework.boot.actuate.autoconfigure.health.ConditionalOnEnabledHealthIndicator;
import org.springframework.boot.actuate.health.HealthIndicator;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnClass;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.boot.autoconfigure.condition.ConditionalOnWebApplication;
import org.springframework.boot.context.properties.EnableConfigurationProperties;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.web.servlet.DispatcherServlet;

/** A {@link CacheSidecar} for the application, and what its web server, its health and its metrics have of it. */
@AutoConfiguration
@EnableConfigurationProperties(CacheSidecarProperties.class)
public class CacheSidecarAutoConfiguration {
  /** The client, which is closed with the context. It connects when it is first used: the application starts without a sidecar. */
  @Bean
  @ConditionalOnMissingBean
  CacheSidecar cacheSidecar(CacheSidecarProperties properties, ObjectProvider<OptionsCustomizer> customizers) {
    Options.Builder options = properties.options();
    customizers.orderedStream().forEach(customizer -> customizer.customize(options));
    return CacheSidecar.connect(options.build());
  }

  @Configuration(proxyBeanMethods = false)
  @ConditionalOnClass({HealthIndicator.class, ConditionalOnEnabledHealthIndicator.class})
  static class HealthConfiguration {
    @Bean
    @ConditionalOnEnabledHealthIndicator("cache-sidecar")
    HealthIndicator cacheSidecarHealthIndicator(CacheSidecar shop) {
      return new SidecarHealth(shop);
    }
  }

  @Configuration(proxyBeanMethods = false)
  @ConditionalOnClass(MeterRegistry.class)
  static class MetricsConfiguration {
    @Bean
    OptionsCustomizer cacheSidecarCallMetrics(ObjectProvider<MeterRegistry> registry) {
      return options -> registry.ifAvailable(found -> options.onCall(call -> SidecarMeters.record(call, found)));
    }

    @Bean
    MeterBinder cacheSidecarCounterMetrics(CacheSidecar shop) {
      return registry -> SidecarMeters.bind(shop.counters(), registry);
    }
  }

  @Configuration(proxyBeanMethods = false)
  @ConditionalOnClass(DispatcherServlet.class)
  @ConditionalOnWebApplication(type = ConditionalOnWebApplication.Type.SERVLET)
  @ConditionalOnProperty(name = "cache-sidecar.errors", matchIfMissing = true)
  static class ErrorsConfiguration {
    @Bean
    @ConditionalOnMissingBean
    SidecarErrors cacheSidecarErrors() {
      return new SidecarErrors();
    }
  }
}
