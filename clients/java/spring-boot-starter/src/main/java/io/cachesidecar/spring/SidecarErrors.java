package io.cachesidecar.spring;

import io.cachesidecar.client.SidecarException;
import org.apache.commons.logging.Log;
import org.apache.commons.logging.LogFactory;
import org.springframework.core.Ordered;
import org.springframework.core.annotation.Order;
import org.springframework.http.HttpHeaders;
import org.springframework.http.HttpStatus;
import org.springframework.http.ProblemDetail;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.annotation.ControllerAdvice;
import org.springframework.web.bind.annotation.ExceptionHandler;

/** Answers for controllers that let an error of the sidecar pass. The application's own advice comes first. */
@ControllerAdvice
@Order(Ordered.LOWEST_PRECEDENCE)
public class SidecarErrors {
  private static final Log LOG = LogFactory.getLog(SidecarErrors.class);

  /** Returns the status for an error; 500 for those that are not the caller's, such as a token that is refused. */
  public static HttpStatus status(SidecarException error) {
    if (error instanceof SidecarException.NotFound) return HttpStatus.NOT_FOUND;
    if (error instanceof SidecarException.InvalidRequest) return HttpStatus.BAD_REQUEST;
    if (error instanceof SidecarException.AlreadyExists
        || error instanceof SidecarException.EtagMismatch
        || error instanceof SidecarException.OutOfStock
        || error instanceof SidecarException.ReservationEnded
        || error instanceof SidecarException.LimitReached) return HttpStatus.CONFLICT;
    if (error instanceof SidecarException.Overloaded || error instanceof SidecarException.Unavailable)
      return HttpStatus.SERVICE_UNAVAILABLE;
    return error instanceof SidecarException.DeadlineExceeded ? HttpStatus.GATEWAY_TIMEOUT : HttpStatus.INTERNAL_SERVER_ERROR;
  }

  /** The error as a problem of RFC 9457, with its reason, values and invalid fields; of a status 500, nothing. */
  @ExceptionHandler(SidecarException.class)
  public ResponseEntity<ProblemDetail> answer(SidecarException error) {
    HttpStatus status = status(error);
    ProblemDetail problem = ProblemDetail.forStatus(status);
    HttpHeaders headers = new HttpHeaders();
    if (status == HttpStatus.INTERNAL_SERVER_ERROR) {
      LOG.error("the cache sidecar refused a call", error);
      problem.setProperty("reason", "INTERNAL");
    } else {
      problem.setProperty("reason", error.reason().isEmpty() ? error.code().name() : error.reason());
      problem.setProperty("values", error.metadata());
      problem.setProperty("fields", error.violations());
      error.retryAfter().ifPresent(delay -> headers.set(HttpHeaders.RETRY_AFTER, String.valueOf(delay.plusMillis(999).toSeconds())));
    }
    return new ResponseEntity<>(problem, headers, status);
  }
}
