package io.cachesidecar.client.conformance;

import static io.cachesidecar.client.CacheSidecar.await;

import com.google.gson.Gson;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.cachesidecar.client.CacheSidecar;
import io.cachesidecar.client.Money;
import io.cachesidecar.client.Options;
import io.cachesidecar.client.Products;
import io.cachesidecar.client.Watch;
import io.cachesidecar.client.With;
import io.cachesidecar.v1.CartItem;
import io.cachesidecar.v1.Product;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Customers that write without a pause while a test kills their sidecar and starts it again; see {@code
 * tests/clients/restarts.py}. Reads a line {@code {"address", "users", "timeout": seconds, "prefix"}}, and later {@code stop}.
 */
public final class Restart {
  private final CacheSidecar shop;
  private final With with;
  private final String prefix;
  private final Money price = Money.of("1.25", "EUR");
  private final Map<String, AtomicInteger> added = new LinkedHashMap<>();
  private final List<Long> versions = Collections.synchronizedList(new ArrayList<>());
  private final List<Long> told = Collections.synchronizedList(new ArrayList<>());
  private final List<String> errors = Collections.synchronizedList(new ArrayList<>());
  private final AtomicInteger missed = new AtomicInteger();
  private final AtomicLong slowest = new AtomicLong();
  private volatile boolean isOver;

  private Restart(CacheSidecar shop, JsonObject plan) {
    this.shop = shop;
    with = With.timeout(Duration.ofSeconds(plan.get("timeout").getAsLong()));
    prefix = plan.get("prefix").getAsString();
    for (int number = 0; number < plan.get("users").getAsInt(); number++) added.put(prefix + "user-" + number, new AtomicInteger());
  }

  public static void main(String[] arguments) throws IOException, InterruptedException {
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    JsonObject plan = JsonParser.parseString(lines.readLine()).getAsJsonObject();
    try (CacheSidecar shop = CacheSidecar.connect(Options.builder().address(plan.get("address").getAsString()).build())) {
      shop.ready(Duration.ofSeconds(plan.get("timeout").getAsLong()));
      Restart restart = new Restart(shop, plan);
      restart.run(lines);
      System.out.println(restart.report());
    }
  }

  private void run(BufferedReader lines) throws IOException, InterruptedException {
    Product product = Product.newBuilder().setProductId(prefix + "watched").setTitle("0").setPrice(price.toMessage()).build();
    await(shop.products().create(product, with));
    List<Thread> writers = new ArrayList<>();
    try (Watch<Products.Change> watch = shop.products().watch()) {
      watch.next();
      Thread watching = new Thread(() -> read(watch));
      watching.start();
      added.forEach((user, count) -> writers.add(new Thread(() -> repeat(() -> add(user, count)))));
      writers.add(new Thread(() -> repeat(() -> update(product))));
      writers.forEach(Thread::start);
      lines.readLine();
      isOver = true;
      for (Thread writer : writers) writer.join();
      await(shop.products().create(product.toBuilder().setProductId(prefix + "end").build(), with));
      watching.join();
    }
  }

  private void add(String user, AtomicInteger count) {
    // A cart holds 999 pieces of a product.
    CartItem item = CartItem.newBuilder().setProductId("mug-" + count.get() / 900).setQuantity(1).setUnitPrice(price.toMessage()).build();
    await(shop.carts().add(user, item, with));
    count.incrementAndGet();
  }

  private void update(Product product) {
    Product changed = Product.newBuilder().setProductId(product.getProductId()).setTitle(String.valueOf(versions.size() + 1)).build();
    versions.add(Long.parseLong(await(shop.products().update(changed, List.of(), with)).etag(), 16));
  }

  private void repeat(Runnable write) {
    while (!isOver) {
      long began = System.nanoTime();
      try {
        write.run();
        synchronized (System.out) {
          System.out.println("written");
        }
      } catch (RuntimeException error) {
        errors.add(error.toString());
      }
      slowest.accumulateAndGet(System.nanoTime() - began, Math::max);
    }
  }

  private void read(Watch<Products.Change> watch) {
    try {
      while (watch.hasNext()) {
        Products.Change change = watch.next();
        if (change.missed()) missed.incrementAndGet();
        if (change.productId().equals(prefix + "watched")) told.add(change.version());
        if (change.productId().equals(prefix + "end")) return;
      }
    } catch (RuntimeException error) {
      errors.add("watch: " + error);
    }
  }

  private String report() {
    Map<String, Object> report = new LinkedHashMap<>();
    report.put("added", added);
    report.put("versions", versions);
    report.put("told", told);
    report.put("missed", missed);
    report.put("errors", errors);
    report.put("retries", shop.counters().retries());
    report.put("slowest", slowest.get() / 1e9);
    return new Gson().toJson(report);
  }
}
