package io.cachesidecar.spring;

import static org.assertj.core.api.Assertions.assertThat;

import io.cachesidecar.client.CacheSidecar;
import io.cachesidecar.client.Options;
import io.cachesidecar.client.SidecarException;
import io.cachesidecar.client.With;
import java.time.Duration;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.Test;
import org.springframework.boot.actuate.health.HealthIndicator;
import org.springframework.boot.actuate.health.Status;
import org.springframework.boot.autoconfigure.AutoConfigurations;
import org.springframework.boot.autoconfigure.session.SessionAutoConfiguration;
import org.springframework.boot.autoconfigure.web.servlet.DispatcherServletAutoConfiguration;
import org.springframework.boot.autoconfigure.web.servlet.WebMvcAutoConfiguration;
import org.springframework.boot.test.context.FilteredClassLoader;
import org.springframework.boot.test.context.runner.ApplicationContextRunner;
import org.springframework.boot.test.context.runner.WebApplicationContextRunner;
import org.springframework.session.MapSessionRepository;
import org.springframework.session.SessionRepository;

/** What the application has of the starter, by its properties and by what else is there. No sidecar is. */
class AutoConfigurationTest {
  private static final String NOBODY = "cache-sidecar.address=127.0.0.1:1";
  private static final AutoConfigurations OURS =
      AutoConfigurations.of(
          CacheSidecarAutoConfiguration.class,
          SidecarSessionAutoConfiguration.class,
          SessionAutoConfiguration.class,
          DispatcherServletAutoConfiguration.class,
          WebMvcAutoConfiguration.class);
  private final ApplicationContextRunner application = new ApplicationContextRunner().withConfiguration(OURS);
  private final WebApplicationContextRunner web = new WebApplicationContextRunner().withConfiguration(OURS);

  private static void failsAsClosed(CacheSidecar shop) {
    assertThat(shop.products().get("mug"))
        .failsWithin(Duration.ofMinutes(1))
        .withThrowableThat()
        .withCauseInstanceOf(SidecarException.class)
        .withMessageContaining("the client is closed");
  }

  @Test
  void theClientIsClosedWithTheContext() {
    var shop = new AtomicReference<CacheSidecar>();
    application
        .withPropertyValues("cache-sidecar.socket=/there/it.sock")
        .run(
            context -> {
              shop.set(context.getBean(CacheSidecar.class));
              assertThat(shop.get().address()).isEqualTo("unix:/there/it.sock");
            });
    failsAsClosed(shop.get());
  }

  @Test
  void anApplicationsOwnClientIsUsed() {
    application
        .withBean(CacheSidecar.class, () -> CacheSidecar.connect(Options.builder().address("127.0.0.1:2").build()))
        .withPropertyValues(NOBODY)
        .run(context -> assertThat(context.getBean(CacheSidecar.class).address()).isEqualTo("127.0.0.1:2"));
  }

  @Test
  void aCustomizerHasTheLastWord() {
    application
        .withBean(OptionsCustomizer.class, () -> options -> options.address("127.0.0.1:3"))
        .withPropertyValues(NOBODY)
        .run(context -> assertThat(context.getBean(CacheSidecar.class).address()).isEqualTo("127.0.0.1:3"));
  }

  @Test
  void aDeadlineOfAPropertyIsKept() {
    application
        .withPropertyValues(NOBODY, "cache-sidecar.timeouts.read=1ms")
        .run(
            context ->
                // Far less than any that a machine could need for the default of two seconds and pass.
                assertThat(context.getBean(CacheSidecar.class).products().get("mug", With.DEFAULTS))
                    .failsWithin(Duration.ofMinutes(1))
                    .withThrowableThat()
                    .withCauseInstanceOf(SidecarException.DeadlineExceeded.class));
  }

  @Test
  void aWrongCertificateEndsTheStartAndSaysWhich() {
    application
        .withPropertyValues(NOBODY, "cache-sidecar.tls.certificate=/there/cert.pem")
        .run(context -> assertThat(context).getFailure().rootCause().hasMessage("a certificate needs its key"));
  }

  @Test
  void healthSaysThatNoSidecarIsThere() {
    application
        .withPropertyValues(NOBODY)
        .run(context -> assertThat(context.getBean(HealthIndicator.class).health().getStatus()).isEqualTo(Status.DOWN));
  }

  @Test
  void healthCanBeTurnedOff() {
    application
        .withPropertyValues(NOBODY, "management.health.cache-sidecar.enabled=false")
        .run(context -> assertThat(context).doesNotHaveBean(HealthIndicator.class));
  }

  @Test
  void itStartsWithoutWebServerActuatorAndMetrics() {
    application
        .withClassLoader(new FilteredClassLoader("org.springframework.boot.actuate", "io.micrometer", "org.springframework.web"))
        .withPropertyValues(NOBODY, "cache-sidecar.sessions=true")
        .run(context -> assertThat(context).hasNotFailed().hasSingleBean(CacheSidecar.class).doesNotHaveBean(SessionRepository.class));
  }

  @Test
  void sessionsAreTheSidecarsIfTheApplicationSaysSo() {
    web.withPropertyValues(NOBODY).run(context -> assertThat(context).doesNotHaveBean(SessionRepository.class));
    web.withPropertyValues(NOBODY, "cache-sidecar.sessions=true")
        .run(context -> assertThat(context).hasSingleBean(SidecarSessionRepository.class));
    web.withPropertyValues(NOBODY, "cache-sidecar.sessions=true")
        .withBean(SessionRepository.class, () -> new MapSessionRepository(new java.util.HashMap<>()))
        .run(context -> assertThat(context).doesNotHaveBean(SidecarSessionRepository.class));
  }

  @Test
  void errorsCanBeTurnedOff() {
    web.withPropertyValues(NOBODY).run(context -> assertThat(context).hasSingleBean(SidecarErrors.class));
    web.withPropertyValues(NOBODY, "cache-sidecar.errors=false")
        .run(context -> assertThat(context).doesNotHaveBean(SidecarErrors.class));
  }
}
