package io.cachesidecar.spring;

import io.cachesidecar.client.Options;
import io.cachesidecar.client.Options.LocalCacheOptions;
import java.nio.file.Path;
import java.time.Duration;
import org.springframework.boot.context.properties.ConfigurationProperties;
import org.springframework.boot.context.properties.bind.DefaultValue;
import org.springframework.util.StringUtils;

/**
 * How the application reaches its sidecar, and what it does with it. What is not set is as the client has it.
 *
 * @param address of the sidecar, host:port or unix:/path; by default that of the injector's environment
 * @param socket path of the sidecar's socket, if there is no address
 * @param tokenFile file with the token that is sent with every call; read again when it changes
 * @param tls files for TLS; read again for each new connection
 * @param timeouts how long calls may take with all their retries
 * @param joinGets time within which gets of products are sent as one batch, such as 300us; by default each is sent alone
 * @param localCache products kept in the application's own process
 * @param errors whether errors of the sidecar that no controller handles are answered by their HTTP status
 * @param sessions whether the application's HTTP sessions are kept in the sidecar
 */
@ConfigurationProperties("cache-sidecar")
public record CacheSidecarProperties(
    String address,
    String socket,
    Path tokenFile,
    @DefaultValue Tls tls,
    @DefaultValue Timeouts timeouts,
    Duration joinGets,
    @DefaultValue LocalCache localCache,
    @DefaultValue("true") boolean errors,
    @DefaultValue("false") boolean sessions) {

  /**
   * Files in PEM.
   *
   * @param ca CAs to trust; makes the client use TLS
   * @param certificate the client's own certificate
   * @param key the key of that certificate
   * @param serverName the name in the sidecar's certificate, if it is not the host of the address
   */
  public record Tls(Path ca, Path certificate, Path key, String serverName) {}

  /**
   * Deadlines.
   *
   * @param read of a read, 2s by default
   * @param write of a write, 5s by default
   */
  public record Timeouts(Duration read, Duration write) {}

  /**
   * Products in the application's own process.
   *
   * @param enabled whether there are any
   * @param entries the most to keep, 10000 by default
   * @param maxAge the maximum age of one, 5s by default
   */
  public record LocalCache(@DefaultValue("false") boolean enabled, Integer entries, Duration maxAge) {
    private LocalCacheOptions options() {
      LocalCacheOptions defaults = LocalCacheOptions.DEFAULTS;
      return new LocalCacheOptions(entries == null ? defaults.entries() : entries, maxAge == null ? defaults.maxAge() : maxAge);
    }
  }

  Options.Builder options() {
    Options.Builder options = Options.builder();
    if (StringUtils.hasText(address)) options.address(address);
    else if (StringUtils.hasText(socket)) options.address(socket.startsWith("unix:") ? socket : "unix:" + socket);
    if (localCache.enabled) options.localCache(localCache.options());
    return options
        .tokenFile(tokenFile)
        .ca(tls.ca)
        .certificate(tls.certificate, tls.key)
        .serverName(tls.serverName)
        .timeouts(timeouts.read, timeouts.write)
        .joinGets(joinGets);
  }
}
