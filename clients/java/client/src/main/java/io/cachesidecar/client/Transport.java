package io.cachesidecar.client;

import com.google.protobuf.Descriptors.FieldDescriptor;
import com.google.protobuf.Message;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ClientInterceptors;
import io.grpc.ConnectivityState;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executor;
import java.util.concurrent.Executors;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.Semaphore;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.Supplier;
import java.util.regex.Pattern;

/** Makes the calls: the one place that decides deadlines, retries, request IDs, tokens and fallbacks, for every method. */
final class Transport implements AutoCloseable {
  /** The attempts of a call that the sidecar has no room for. One that it cannot answer is repeated until the deadline. */
  private static final int ATTEMPTS_UNDER_OVERLOAD = 3;

  private static final long FIRST_DELAY_MS = 20;
  private static final long MAX_DELAY_MS = 500;
  /** gRPC for Java cannot be told how often to reconnect: so it is told to, as often. */
  private static final long RECONNECT_MS = 250;

  private static final Duration ADMIN_TIMEOUT = Duration.ofSeconds(30);
  private static final Pattern READS = Pattern.compile("(Get|BatchGet|List|Touch|Inspect).*");
  private static final Set<String> SLOW = Set.of("Invalidate", "UpdatePolicy", "ImportRecommendations");
  private static final Metadata.Key<String> AUTHORIZATION = Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
  private static final System.Logger LOG = System.getLogger(CacheSidecar.class.getName());

  final Options options;
  final Counters counters = new Counters();
  final ScheduledExecutorService timer;
  /** Of calls for which nobody waits, and of streams. They end by themselves when they have nothing to do. */
  private final Executor threads = Executors.newCachedThreadPool(task -> daemon(task, "cache-sidecar-calls"));
  private final ManagedChannel managed;
  private final Channel channel;
  private final TokenFile token;
  private final Semaphore fallbacks;
  private final AtomicBoolean away = new AtomicBoolean();
  private final Set<AutoCloseable> open = ConcurrentHashMap.newKeySet();
  private final Set<Runnable> waiting = ConcurrentHashMap.newKeySet();
  private final AtomicBoolean hookFailed = new AtomicBoolean();
  private volatile boolean closed;

  Transport(Options options) {
    this.options = options;
    token = options.tokenFile == null ? null : new TokenFile(options.tokenFile);
    fallbacks = new Semaphore(options.maxFallbacks);
    timer = Executors.newSingleThreadScheduledExecutor(task -> daemon(task, "cache-sidecar-timer"));
    ManagedChannelBuilder<?> builder =
        Grpc.newChannelBuilder(options.address, credentials())
            // Retries are ours: gRPC's would stop after five.
            .disableRetry()
            .disableServiceConfigLookUp()
            .executor(threads)
            .maxInboundMessageSize(options.maxMessageBytes)
            // A sidecar that hangs is noticed. It accepts a ping every 10 s.
            .keepAliveTime(15, TimeUnit.SECONDS)
            .keepAliveTimeout(5, TimeUnit.SECONDS);
    if (options.serverName != null) builder.overrideAuthority(options.serverName);
    managed = builder.build();
    channel = ClientInterceptors.intercept(managed, new Headers());
    timer.scheduleWithFixedDelay(this::reconnect, RECONNECT_MS, RECONNECT_MS, TimeUnit.MILLISECONDS);
  }

  private static Thread daemon(Runnable task, String name) {
    Thread thread = new Thread(task, name);
    thread.setDaemon(true);
    return thread;
  }

  Channel channel() {
    return channel;
  }

  boolean isClosed() {
    return closed;
  }

  /** Has it closed with the client, until it is closed itself. */
  void closesWithClient(AutoCloseable stream) {
    open.add(stream);
    if (closed) throw closedException();
  }

  void isClosedNow(AutoCloseable stream) {
    open.remove(stream);
  }

  SidecarException closedException() {
    return SidecarException.of(Status.CANCELLED.withDescription("the client is closed").asRuntimeException(), null);
  }

  @Override
  public void close() {
    closed = true;
    for (AutoCloseable stream : open) {
      try {
        stream.close();
      } catch (Exception error) {
        throw new IllegalStateException(error);
      }
    }
    timer.shutdownNow();
    // Who waits for what the timer will not do any more hears that the client is closed.
    for (Runnable task : waiting) if (waiting.remove(task)) task.run();
    managed.shutdownNow();
  }

  /** Runs a task after so many nanoseconds, or when the client is closed. */
  void later(Runnable task, long nanos) {
    waiting.add(task);
    Runnable once =
        () -> {
          if (waiting.remove(task)) task.run();
        };
    try {
      timer.schedule(once, nanos, TimeUnit.NANOSECONDS);
    } catch (RejectedExecutionException closedMeanwhile) {
      once.run();
    }
  }

  /** Completes with the reply, after as many attempts as the deadline has room for. */
  <Q extends Message, R> CompletableFuture<R> unary(MethodDescriptor<Q, R> method, Q request, With with) {
    return unary(method, request, with, true);
  }

  @SuppressWarnings("unchecked")
  private <Q extends Message, R> CompletableFuture<R> unary(MethodDescriptor<Q, R> method, Q request, With with, boolean waits) {
    Duration timeout = with.timeout() == null ? timeoutOf(method) : with.timeout();
    if (!waits && options.fallbackAfter.compareTo(timeout) < 0) timeout = options.fallbackAfter;
    Q complete = request;
    FieldDescriptor field = request.getDescriptorForType().findFieldByName("request_id");
    // Every write has this field, so each of them can be repeated.
    if (field != null && ((String) request.getField(field)).isEmpty()) {
      String id = with.requestId() == null ? UUID.randomUUID().toString() : with.requestId();
      complete = (Q) request.toBuilder().setField(field, id).build();
    }
    counters.calls.increment();
    var call = new Call<>(method, complete, System.nanoTime() + timeout.toNanos(), waits);
    call.attempt();
    return call.result;
  }

  /** One call, with its attempts. */
  private final class Call<Q extends Message, R> {
    private final Reply.Events events = new Reply.Events(threads);
    final CompletableFuture<R> result = new Reply<>(events);
    private final MethodDescriptor<Q, R> method;
    private final Q request;
    private final long began = System.nanoTime();
    private final long deadline;
    private final boolean waits;
    private int attempts;
    private boolean hasReadToken;
    private volatile ClientCall<Q, R> current;

    Call(MethodDescriptor<Q, R> method, Q request, long deadline, boolean waits) {
      this.method = method;
      this.request = request;
      this.deadline = deadline;
      this.waits = waits;
      result.whenComplete(
          (reply, error) -> {
            if (result.isCancelled()) {
              ClientCall<Q, R> running = current;
              if (running != null) running.cancel("the caller has cancelled it", null);
            }
          });
    }

    void attempt() {
      if (result.isDone()) return;
      if (closed) {
        result.completeExceptionally(closedException());
        return;
      }
      attempts++;
      try {
        start();
      } catch (RuntimeException error) {
        // Such as one of the application's headers. In the timer's thread, nobody else would hear of it.
        result.completeExceptionally(error);
      }
    }

    private void start() {
      long left = Math.max(deadline - System.nanoTime(), 1);
      CallOptions callOptions = CallOptions.DEFAULT.withExecutor(events).withDeadlineAfter(left, TimeUnit.NANOSECONDS);
      ClientCall<Q, R> call = channel.newCall(method, waits ? callOptions.withWaitForReady() : callOptions);
      current = call;
      StreamObserver<R> observer =
          new StreamObserver<>() {
            private R reply;

            @Override
            public void onNext(R value) {
              reply = value;
            }

            @Override
            public void onError(Throwable thrown) {
              failed(thrown);
            }

            @Override
            public void onCompleted() {
              report(Status.Code.OK);
              result.complete(reply);
            }
          };
      if (method.getType() == MethodDescriptor.MethodType.UNARY) {
        ClientCalls.asyncUnaryCall(call, request, observer);
      } else {
        // A stream of one message, which may be repeated like a unary call.
        StreamObserver<Q> requests = ClientCalls.asyncClientStreamingCall(call, observer);
        requests.onNext(request);
        requests.onCompleted();
      }
    }

    private void failed(Throwable thrown) {
      if (result.isDone()) return;
      if (closed) {
        result.completeExceptionally(closedException());
        return;
      }
      SidecarException error = errorOf(thrown);
      long delay = TimeUnit.MILLISECONDS.toNanos(backoff(attempts));
      delay = Math.max(delay, error.retryAfter().map(Duration::toNanos).orElse(0L));
      boolean isRotated = error instanceof SidecarException.Unauthenticated && !hasReadToken && isTokenNew();
      if (isRotated) {
        hasReadToken = true;
        delay = 0;
      }
      if (!(isRotated || waits && isTransient(error, attempts)) || System.nanoTime() + delay >= deadline) {
        counters.errors.increment();
        report(error.code());
        result.completeExceptionally(error);
        return;
      }
      counters.retries.increment();
      later(this::attempt, delay);
    }

    private void report(Status.Code code) {
      if (options.onCall == null) return;
      Duration time = Duration.ofNanos(System.nanoTime() - began);
      String service = method.getServiceName();
      String name = service.substring(service.lastIndexOf('.') + 1) + "/" + method.getBareMethodName();
      try {
        options.onCall.accept(new CallInfo(name, time, attempts, code));
      } catch (RuntimeException error) {
        // A call that was made must neither look as if it had failed, nor be waited for.
        if (hookFailed.compareAndSet(false, true)) LOG.log(System.Logger.Level.WARNING, "onCall has failed; this is logged once", error);
      }
    }
  }

  /** As {@code unary}, or what the loader returns if the sidecar is away; it then has no time to lose. */
  <Q extends Message, R, T> CompletableFuture<T> withFallback(
      MethodDescriptor<Q, R> method,
      Q request,
      With with,
      java.util.function.Function<R, T> read,
      Supplier<? extends CompletableFuture<T>> fallback) {
    if (fallback == null) return unary(method, request, with).thenApply(read);
    return unary(method, request, with, false)
        .thenApply(
            reply -> {
              if (away.compareAndSet(true, false))
                LOG.log(System.Logger.Level.WARNING, "the cache sidecar at {0} answers again: fallbacks end", options.address);
              return read.apply(reply);
            })
        .exceptionallyCompose(
            thrown -> {
              Throwable error = CacheSidecar.causeOf(thrown);
              if (!(error instanceof SidecarException.Unavailable || error instanceof SidecarException.DeadlineExceeded))
                return CompletableFuture.failedFuture(error);
              if (away.compareAndSet(false, true))
                LOG.log(
                    System.Logger.Level.WARNING,
                    "the cache sidecar at {0} is away, so fallbacks are used: {1}",
                    options.address,
                    error.getMessage());
              if (!fallbacks.tryAcquire()) {
                counters.refusedFallbacks.increment();
                return CompletableFuture.failedFuture(error);
              }
              counters.fallbacks.increment();
              CompletableFuture<T> loading;
              try {
                loading = fallback.get();
              } catch (RuntimeException failed) {
                fallbacks.release();
                return CompletableFuture.failedFuture(failed);
              }
              return loading.whenComplete((value, failed) -> fallbacks.release());
            });
  }

  SidecarException errorOf(Throwable thrown) {
    boolean isAway =
        Status.fromThrowable(thrown).getCode() == Status.Code.DEADLINE_EXCEEDED && managed.getState(false) != ConnectivityState.READY;
    return SidecarException.of(thrown, isAway ? "no cache sidecar answers at " + options.address : null);
  }

  /** Milliseconds to wait after so many failures: doubled each time, half of it random, so that callers spread. */
  static long backoff(int failures) {
    long full = Math.min(FIRST_DELAY_MS << Math.min(failures, 10), MAX_DELAY_MS);
    return full / 2 + ThreadLocalRandom.current().nextLong(full / 2 + 1);
  }

  /** Whether a later attempt may succeed. */
  static boolean isTransient(SidecarException error, int attempts) {
    if (error instanceof SidecarException.Overloaded) return error.retryAfter().isPresent() && attempts < ATTEMPTS_UNDER_OVERLOAD;
    return error instanceof SidecarException.Unavailable;
  }

  Duration timeoutOf(MethodDescriptor<?, ?> method) {
    String name = method.getBareMethodName();
    if (SLOW.contains(name)) return ADMIN_TIMEOUT;
    return READS.matcher(name).matches() ? options.readTimeout : options.writeTimeout;
  }

  private boolean isTokenNew() {
    if (token == null) return false;
    String before = token.current(false);
    return !token.current(true).equals(before);
  }

  private void reconnect() {
    if (managed.getState(false) == ConnectivityState.TRANSIENT_FAILURE) managed.resetConnectBackoff();
  }

  private ChannelCredentials credentials() {
    return options.ca == null ? InsecureChannelCredentials.create() : TlsFiles.credentials(options);
  }

  /** Adds the token and the application's headers. */
  private final class Headers implements ClientInterceptor {
    @Override
    public <Q, R> ClientCall<Q, R> interceptCall(MethodDescriptor<Q, R> method, CallOptions callOptions, Channel next) {
      return new SimpleForwardingClientCall<>(next.newCall(method, callOptions)) {
        @Override
        public void start(Listener<R> listener, Metadata headers) {
          if (token != null) headers.put(AUTHORIZATION, "Bearer " + token.current(false));
          Map<String, String> more = options.headers == null ? Map.of() : options.headers.apply(method.getFullMethodName());
          more.forEach((name, value) -> headers.put(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER), value));
          super.start(listener, headers);
        }
      };
    }
  }
}
