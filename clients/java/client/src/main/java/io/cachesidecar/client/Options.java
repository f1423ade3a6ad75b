package io.cachesidecar.client;

import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.function.Consumer;
import java.util.function.Function;

/** How a client reaches its sidecar, and how it behaves. The defaults suit a sidecar that the injector has put beside the pod. */
public final class Options {
  /** The socket's path in a pod with an injected sidecar. */
  private static final Path SOCKET = Path.of("/run/cache-sidecar/grpc.sock");

  final String address;
  final Path ca;
  final Path cert;
  final Path key;
  final String serverName;
  final Path tokenFile;
  final Duration readTimeout;
  final Duration writeTimeout;
  final int maxMessageBytes;
  final Duration joinWindow;
  final LocalCacheOptions localCache;
  final int maxFallbacks;
  final Duration fallbackAfter;
  final Consumer<CallInfo> onCall;
  final Function<String, Map<String, String>> headers;

  private Options(Builder builder) {
    address = builder.address;
    ca = builder.ca;
    cert = builder.cert;
    key = builder.key;
    serverName = builder.serverName;
    tokenFile = builder.tokenFile;
    readTimeout = builder.readTimeout;
    writeTimeout = builder.writeTimeout;
    maxMessageBytes = builder.maxMessageBytes;
    joinWindow = builder.joinWindow;
    localCache = builder.localCache;
    maxFallbacks = builder.maxFallbacks;
    fallbackAfter = builder.fallbackAfter;
    onCall = builder.onCall;
    headers = builder.headers;
  }

  /**
   * Products in the client's own process.
   *
   * @param entries the most products to keep; those that were used least recently go first
   * @param maxAge the maximum age of a product, even if nothing is known to have changed
   */
  public record LocalCacheOptions(int entries, Duration maxAge) {
    /** 10,000 products of at most 5 seconds. */
    public static final LocalCacheOptions DEFAULTS = new LocalCacheOptions(10_000, Duration.ofSeconds(5));
  }

  /**
   * The address of the injector's environment (CACHE_SIDECAR_ADDRESS, or CACHE_SIDECAR_SOCKET), else the socket of a pod if it is
   * there, else 127.0.0.1:50051.
   */
  public static Options fromEnvironment() {
    return builder().build();
  }

  public static Builder builder() {
    return new Builder();
  }

  static String addressOf(Map<String, String> environment, Path socket) {
    String address = environment.getOrDefault("CACHE_SIDECAR_ADDRESS", "");
    String path = environment.getOrDefault("CACHE_SIDECAR_SOCKET", "");
    if (!address.isEmpty()) return address;
    if (!path.isEmpty()) return path.startsWith("unix:") ? path : "unix:" + path;
    return Files.exists(socket) ? "unix:" + socket : "127.0.0.1:50051";
  }

  /** Sets what differs from the defaults. */
  public static final class Builder {
    private String address;
    private Path ca;
    private Path cert;
    private Path key;
    private String serverName;
    private Path tokenFile;
    private Duration readTimeout = Duration.ofSeconds(2);
    private Duration writeTimeout = Duration.ofSeconds(5);
    private int maxMessageBytes = 64 * 1024 * 1024;
    private Duration joinWindow;
    private LocalCacheOptions localCache;
    private int maxFallbacks = 16;
    private Duration fallbackAfter = Duration.ofMillis(500);
    private Consumer<CallInfo> onCall;
    private Function<String, Map<String, String>> headers;

    private Builder() {}

    /** {@code host:port}, or {@code unix:/path}. */
    public Builder address(String address) {
      this.address = address;
      return this;
    }

    /** A file with the CAs to trust, in PEM: makes the client use TLS. Read again when it changes. */
    public Builder ca(Path ca) {
      this.ca = ca;
      return this;
    }

    /** The client's certificate and its key, in PEM. Read again when they change. */
    public Builder certificate(Path cert, Path key) {
      this.cert = cert;
      this.key = key;
      return this;
    }

    /** The name in the sidecar's certificate, if it differs from the host. */
    public Builder serverName(String serverName) {
      this.serverName = serverName;
      return this;
    }

    /** A file with a token, read again when it changes. */
    public Builder tokenFile(Path tokenFile) {
      this.tokenFile = tokenFile;
      return this;
    }

    /** How long a call may take with all its retries; null for the default, 2 seconds for a read, 5 for a write. */
    public Builder timeouts(Duration read, Duration write) {
      if (read != null) readTimeout = read;
      if (write != null) writeTimeout = write;
      return this;
    }

    /** The largest reply to accept: 64 MiB, the most that a sidecar can be told to send. */
    public Builder maxMessageBytes(int bytes) {
      maxMessageBytes = bytes;
      return this;
    }

    /** Has gets of a product within so much time sent as one batch, such as 300 microseconds. Off by default. */
    public Builder joinGets(Duration window) {
      joinWindow = window;
      return this;
    }

    /** Keeps products in this process. Off by default. */
    public Builder localCache(LocalCacheOptions options) {
      localCache = options;
      return this;
    }

    /** How many fallbacks may run at once (16), and how long a call with one waits for a sidecar that hangs (500 ms). */
    public Builder fallbacks(int most, Duration after) {
      maxFallbacks = most;
      fallbackAfter = after;
      return this;
    }

    /** Is told of each call after its last attempt, for metrics; there may be several, and null removes them. */
    public Builder onCall(Consumer<CallInfo> onCall) {
      this.onCall = this.onCall == null || onCall == null ? onCall : this.onCall.andThen(onCall);
      return this;
    }

    /** Returns headers of a call, such as {@code traceparent}, by the method's name. */
    public Builder headers(Function<String, Map<String, String>> headers) {
      this.headers = headers;
      return this;
    }

    /** Throws IllegalArgumentException if options contradict each other. */
    public Options build() {
      if ((cert == null) != (key == null)) throw new IllegalArgumentException("a certificate needs its key");
      if (cert != null && ca == null) throw new IllegalArgumentException("a client certificate needs TLS: set ca, too");
      if (address == null) address = addressOf(System.getenv(), SOCKET);
      return new Options(this);
    }
  }
}
