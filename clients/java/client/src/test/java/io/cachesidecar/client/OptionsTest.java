package io.cachesidecar.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class OptionsTest {
  @TempDir Path folder;

  @Test
  void theAddressIsTheInjectorsElseTheSocketElseThisMachine() throws IOException {
    Path socket = folder.resolve("grpc.sock");
    assertEquals("127.0.0.1:50051", Options.addressOf(Map.of(), socket));
    Files.createFile(socket);
    assertEquals("unix:" + socket, Options.addressOf(Map.of(), socket));
    assertEquals("unix:/run/s", Options.addressOf(Map.of("CACHE_SIDECAR_SOCKET", "/run/s"), socket));
    assertEquals("127.0.0.1:9", Options.addressOf(Map.of("CACHE_SIDECAR_SOCKET", "/run/s", "CACHE_SIDECAR_ADDRESS", "127.0.0.1:9"), socket));
  }

  @Test
  void aTokenIsReadAgain() throws IOException {
    Path path = folder.resolve("token");
    Files.writeString(path, "# the cart's\ncart app first\n");
    TokenFile file = new TokenFile(path);
    assertEquals("first", file.current(false));
    Files.writeString(path, "second\n");
    assertEquals("second", file.current(true));
    for (String wrong : List.of("", "t\u00f6k", "a\u0001b")) {
      Files.writeString(path, wrong);
      assertEquals("second", file.current(true));
      assertThrows(IllegalArgumentException.class, () -> new TokenFile(path));
    }
    Files.writeString(path, "app app t-._~+/9==\n");
    assertEquals("t-._~+/9==", file.current(true));
    assertThrows(UncheckedIOException.class, () -> new TokenFile(folder.resolve("none")));
  }

  @Test
  void aCertificateNeedsItsKeyAndTheCa() {
    Path file = folder.resolve("file.pem");
    assertThrows(IllegalArgumentException.class, () -> Options.builder().certificate(file, null).build());
    assertThrows(IllegalArgumentException.class, () -> Options.builder().certificate(file, file).build());
  }
}
