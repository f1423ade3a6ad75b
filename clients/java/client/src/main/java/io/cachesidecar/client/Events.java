package io.cachesidecar.client;

import io.cachesidecar.v1.PurgeUserEventsRequest;
import io.cachesidecar.v1.StreamUserEventsRequest;
import io.cachesidecar.v1.StreamUserEventsResponse;
import io.cachesidecar.v1.UserEvent;
import io.cachesidecar.v1.UserEventServiceGrpc;
import io.cachesidecar.v1.WriteUserEventsRequest;
import io.cachesidecar.v1.WriteUserEventsResponse;
import io.grpc.CallOptions;
import io.grpc.Status;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.StreamObserver;
import java.security.SecureRandom;
import java.time.Duration;
import java.time.Instant;
import java.util.Iterator;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;

/** What users do: of these, the messages of the protos. */
public final class Events {
  private static final SecureRandom RANDOM = new SecureRandom();
  private final Transport transport;

  Events(Transport transport) {
    this.transport = transport;
  }

  /** Writes 1 to 500 events. Those without an ID get one, so that a retry does not write them twice. Fails with EventBacklogFull. */
  public CompletableFuture<WriteUserEventsResponse> write(List<UserEvent> events, With with) {
    var request = WriteUserEventsRequest.newBuilder().addAllEvents(events.stream().map(Events::withId).toList()).build();
    return transport.unary(UserEventServiceGrpc.getWriteUserEventsMethod(), request, with);
  }

  /**
   * Writes batches one after the other, and tells {@code written} the reply of each. A batch that was not answered because the
   * stream broke is sent again, with the same IDs; the timeout is for each batch.
   */
  public CompletableFuture<Void> stream(Iterator<List<UserEvent>> batches, Consumer<StreamUserEventsResponse> written, With with) {
    Exchange exchange = new Exchange(batches, written, with);
    exchange.next();
    return exchange.result;
  }

  /** Erases all events of a user; completes with how many were erased in PostgreSQL. */
  public CompletableFuture<Long> purge(String userId, With with) {
    var request = PurgeUserEventsRequest.newBuilder().setUserId(userId).build();
    return transport.unary(UserEventServiceGrpc.getPurgeUserEventsMethod(), request, with).thenApply(reply -> reply.getPurgedCount());
  }

  private static UserEvent withId(UserEvent event) {
    if (!event.getEventId().isEmpty()) return event;
    var time = event.getEventTime();
    Instant happened = event.hasEventTime() ? Instant.ofEpochSecond(time.getSeconds(), time.getNanos()) : Instant.now();
    return event.toBuilder().setEventId(uuid7(happened.toEpochMilli()).toString()).build();
  }

  /** Returns a UUID of version 7, which begins with a time in milliseconds since 1970. */
  static UUID uuid7(long milliseconds) {
    long first = milliseconds << 16 | 0x7000 | RANDOM.nextInt(1 << 12);
    long second = RANDOM.nextLong() >>> 2 | 1L << 63;
    return new UUID(first, second);
  }

  /** Sends a batch when the one before is answered. */
  private final class Exchange {
    final CompletableFuture<Void> result = new CompletableFuture<>();
    private final Iterator<List<UserEvent>> batches;
    private final Consumer<StreamUserEventsResponse> written;
    private final Duration timeout;
    /** The batch that is not answered yet, its attempts, and until when it has to be. */
    private volatile StreamUserEventsRequest pending;

    private int attempts;
    private long deadline;
    private volatile StreamObserver<StreamUserEventsRequest> stream;

    Exchange(Iterator<List<UserEvent>> batches, Consumer<StreamUserEventsResponse> written, With with) {
      this.batches = batches;
      this.written = written;
      timeout = with.timeout() == null ? transport.timeoutOf(UserEventServiceGrpc.getStreamUserEventsMethod()) : with.timeout();
    }

    /** Sends the next batch, or ends. */
    void next() {
      try {
        if (!batches.hasNext()) {
          if (stream != null) stream.onCompleted();
          result.complete(null);
          return;
        }
        pending = StreamUserEventsRequest.newBuilder().addAllEvents(batches.next().stream().map(Events::withId).toList()).build();
        attempts = 0;
        deadline = System.nanoTime() + timeout.toNanos();
        transport.counters.calls.increment();
        send();
      } catch (RuntimeException failed) {
        if (stream != null) stream.onError(failed);
        result.completeExceptionally(failed);
      }
    }

    private void send() {
      if (transport.isClosed()) {
        result.completeExceptionally(transport.closedException());
        return;
      }
      attempts++;
      if (stream == null) {
        var call = transport.channel().newCall(UserEventServiceGrpc.getStreamUserEventsMethod(), CallOptions.DEFAULT.withWaitForReady());
        stream = ClientCalls.asyncBidiStreamingCall(call, new Replies());
      }
      StreamUserEventsRequest sent = pending;
      stream.onNext(sent);
      // A sidecar that hangs: the stream ends, and with it the wait.
      StreamObserver<StreamUserEventsRequest> waiting = stream;
      transport.timer.schedule(
          () -> {
            if (pending == sent && !result.isDone()) waiting.onError(Status.DEADLINE_EXCEEDED.asRuntimeException());
          },
          Math.max(deadline - System.nanoTime(), 0),
          TimeUnit.NANOSECONDS);
    }

    private final class Replies implements StreamObserver<StreamUserEventsResponse> {
      @Override
      public void onNext(StreamUserEventsResponse reply) {
        pending = null;
        written.accept(reply);
        next();
      }

      @Override
      public void onError(Throwable thrown) {
        if (result.isDone()) return;
        SidecarException error = transport.errorOf(thrown);
        long delay = TimeUnit.MILLISECONDS.toNanos(Transport.backoff(attempts));
        delay = Math.max(delay, error.retryAfter().map(Duration::toNanos).orElse(0L));
        stream = null;
        if (!Transport.isTransient(error, attempts) || System.nanoTime() + delay >= deadline) {
          transport.counters.errors.increment();
          result.completeExceptionally(error);
          return;
        }
        transport.counters.retries.increment();
        transport.later(Exchange.this::send, delay);
      }

      @Override
      public void onCompleted() {
        if (!result.isDone()) onError(Status.UNAVAILABLE.withDescription("the stream has ended").asRuntimeException());
      }
    }
  }
}
