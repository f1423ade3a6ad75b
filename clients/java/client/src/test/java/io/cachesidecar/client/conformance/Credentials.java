package io.cachesidecar.client.conformance;

import static io.cachesidecar.client.CacheSidecar.await;

import io.cachesidecar.client.CacheSidecar;
import io.cachesidecar.client.SidecarException;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;

/** For each line on its input, asks the sidecar of the environment for a product that is not there, and prints how that ends. */
public final class Credentials {
  private static final Duration PATIENCE = Duration.ofSeconds(100);

  private Credentials() {}

  public static void main(String[] arguments) throws IOException {
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    try (CacheSidecar shop = CacheSidecar.connect(Main.options(false).timeouts(PATIENCE, PATIENCE).build())) {
      for (String line = lines.readLine(); line != null; line = lines.readLine()) {
        try {
          System.out.println(await(shop.products().get("none")).productId());
        } catch (SidecarException error) {
          System.out.println(error.getClass().getSimpleName());
        }
      }
    }
  }
}
