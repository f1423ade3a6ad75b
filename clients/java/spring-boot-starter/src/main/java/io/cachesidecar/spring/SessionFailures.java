package io.cachesidecar.spring;

import io.cachesidecar.client.SidecarException;
import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import org.springframework.web.filter.OncePerRequestFilter;
import org.springframework.web.servlet.HandlerExceptionResolver;

/** Answers, as if a controller had failed, where it was the session that could not be read or saved. */
final class SessionFailures extends OncePerRequestFilter {
  private final HandlerExceptionResolver resolver;

  SessionFailures(HandlerExceptionResolver resolver) {
    this.resolver = resolver;
  }

  @Override
  protected boolean shouldNotFilterAsyncDispatch() {
    return false;
  }

  @Override
  protected void doFilterInternal(HttpServletRequest request, HttpServletResponse response, FilterChain chain)
      throws ServletException, IOException {
    try {
      chain.doFilter(request, response);
    } catch (SidecarException error) {
      if (response.isCommitted()) throw error;
      // The page says that something was kept, which was not: better no page.
      response.reset();
      if (resolver.resolveException(request, response, null, error) == null) throw error;
    }
  }
}
