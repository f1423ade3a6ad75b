package io.cachesidecar.client;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;

/** The token of a file, which may be replaced at any time. */
final class TokenFile {
  private static final long LOOK_EVERY = TimeUnit.SECONDS.toNanos(1);
  /** RFC 6750, 2.1. Of others gRPC makes errors that do not say what is wrong. */
  private static final Pattern TOKEN = Pattern.compile("[A-Za-z0-9._~+/-]+=*");
  private final Reread<String> file;
  private String token;
  private long looked;

  /** Throws UncheckedIOException if the file cannot be read, IllegalArgumentException if it has no token. */
  TokenFile(Path path) {
    file = new Reread<>(List.of(path), content -> firstToken(content.get(0)));
    current(true);
  }

  /** Returns the token. Looks at the file at most once a second, unless {@code now}; keeps the last one if there is none in it. */
  synchronized String current(boolean now) {
    if (now || System.nanoTime() - looked >= LOOK_EVERY) {
      looked = System.nanoTime();
      token = file.current();
    }
    return token;
  }

  /** A line is a token, or a name, roles and a token, as in the sidecar's own file. */
  private static String firstToken(ByteBuffer content) {
    for (String line : StandardCharsets.UTF_8.decode(content.duplicate()).toString().lines().toList()) {
      if (line.isBlank() || line.strip().startsWith("#")) continue;
      String[] words = line.strip().split("\\s+");
      String token = words[words.length - 1];
      if (!TOKEN.matcher(token).matches()) throw new IllegalArgumentException("a token has only letters, digits and -._~+/");
      return token;
    }
    throw new IllegalArgumentException("it has no token");
  }
}
