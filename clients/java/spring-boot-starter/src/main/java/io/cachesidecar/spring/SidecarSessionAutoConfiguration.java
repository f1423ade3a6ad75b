package io.cachesidecar.spring;

import io.cachesidecar.client.CacheSidecar;
import org.springframework.beans.factory.BeanClassLoaderAware;
import org.springframework.beans.factory.annotation.Qualifier;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnClass;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.boot.autoconfigure.condition.ConditionalOnWebApplication;
import org.springframework.boot.autoconfigure.session.DefaultCookieSerializerCustomizer;
import org.springframework.boot.autoconfigure.session.SessionAutoConfiguration;
import org.springframework.boot.web.servlet.FilterRegistrationBean;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Import;
import org.springframework.context.annotation.Lazy;
import org.springframework.session.SessionRepository;
import org.springframework.session.config.annotation.web.http.SpringHttpSessionConfiguration;
import org.springframework.session.web.http.SessionRepositoryFilter;
import org.springframework.web.servlet.DispatcherServlet;
import org.springframework.web.servlet.HandlerExceptionResolver;

/** HTTP sessions in the sidecar, if {@code cache-sidecar.sessions} is true. Spring Boot itself makes the filter and its cookie. */
@AutoConfiguration(after = CacheSidecarAutoConfiguration.class, before = SessionAutoConfiguration.class)
@ConditionalOnClass(DispatcherServlet.class)
@ConditionalOnWebApplication(type = ConditionalOnWebApplication.Type.SERVLET)
@ConditionalOnProperty("cache-sidecar.sessions")
@ConditionalOnMissingBean(SessionRepository.class)
@Import(SpringHttpSessionConfiguration.class)
public class SidecarSessionAutoConfiguration implements BeanClassLoaderAware {
  private ClassLoader classes;

  @Override
  public void setBeanClassLoader(ClassLoader classes) {
    this.classes = classes;
  }

  @Bean
  SidecarSessionRepository sessionRepository(CacheSidecar shop) {
    return new SidecarSessionRepository(shop.sessions(), classes);
  }

  /** The sidecar's IDs are made for cookies, and applications in other languages have them there as they are. */
  @Bean
  DefaultCookieSerializerCustomizer cacheSidecarCookie() {
    return cookie -> cookie.setUseBase64Encoding(false);
  }

  /** Just outside of the filter for sessions. */
  @Bean
  FilterRegistrationBean<SessionFailures> cacheSidecarSessionFailures(
      @Lazy @Qualifier(DispatcherServlet.HANDLER_EXCEPTION_RESOLVER_BEAN_NAME) HandlerExceptionResolver resolver) {
    var registration = new FilterRegistrationBean<>(new SessionFailures(resolver));
    registration.setOrder(SessionRepositoryFilter.DEFAULT_ORDER - 1);
    return registration;
  }
}
