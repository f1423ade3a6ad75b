package io.cachesidecar.client.bench;

import static io.cachesidecar.client.CacheSidecar.await;

import com.google.gson.Gson;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.cachesidecar.client.CacheSidecar;
import io.cachesidecar.client.Freshness;
import io.cachesidecar.client.Options;
import io.cachesidecar.client.Options.LocalCacheOptions;
import io.cachesidecar.v1.GetProductRequest;
import io.cachesidecar.v1.ProductServiceGrpc;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * Reads of products by this library and by the bare stub, as {@code tests/bench/clients.py} compares them. Called with a kind and a
 * file {@code {"address", "keys", "workers"}}; prints {@code ready}, and for each number of seconds on its input a line of JSON.
 */
public final class Reads {
  private static final double SECONDS_TO_COMPILE = 3;
  /** Of both sides: only a machine that hangs takes so long. */
  private static final Duration DEADLINE = Duration.ofMinutes(1);
  /** Reads of the local cache between two looks at the clock, which takes as long as they do. */
  private static final int RUNS_OF_L0 = 100;

  private final Read read;
  private final String[] keys;
  private final int workers;
  private final int runs;
  private final AtomicInteger next = new AtomicInteger();

  private interface Read {
    Object of(String key);
  }

  private Reads(Read read, String[] keys, int workers, int runs) {
    this.read = read;
    this.keys = keys;
    this.workers = workers;
    this.runs = runs;
  }

  public static void main(String[] arguments) throws IOException, InterruptedException, ExecutionException {
    JsonObject job = JsonParser.parseString(Files.readString(Path.of(arguments[1]))).getAsJsonObject();
    String[] keys = new Gson().fromJson(job.get("keys"), String[].class);
    boolean isLocal = arguments[0].equals("l0");
    Read read = read(arguments[0], job.get("address").getAsString(), keys);
    Reads reads = new Reads(read, keys, job.get("workers").getAsInt(), isLocal ? RUNS_OF_L0 : 1);
    reads.measure(SECONDS_TO_COMPILE);
    System.out.println("ready");
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = lines.readLine(); line != null; line = lines.readLine())
      System.out.println(new Gson().toJson(reads.measure(Double.parseDouble(line))));
    System.exit(0);
  }

  private static Read read(String kind, String address, String[] keys) throws InterruptedException {
    if (kind.equals("bare")) {
      var stub = ProductServiceGrpc.newBlockingStub(Grpc.newChannelBuilder(address, InsecureChannelCredentials.create()).build());
      return key ->
          stub.withDeadlineAfter(DEADLINE.toSeconds(), TimeUnit.SECONDS).getProduct(GetProductRequest.newBuilder().setProductId(key).build());
    }
    Options.Builder options = Options.builder().address(address).timeouts(DEADLINE, DEADLINE);
    if (kind.equals("joined")) options.joinGets(Duration.ofNanos(300_000));
    if (kind.equals("l0")) options.localCache(new LocalCacheOptions(10_000, Duration.ofHours(1)));
    CacheSidecar shop = CacheSidecar.connect(options.build());
    Read read = key -> await(shop.products().get(key));
    if (kind.equals("l0"))
      for (String key : keys)
        while (await(shop.products().get(key)).cache().source() != Freshness.Source.L0) Thread.sleep(10);
    return read;
  }

  private Map<String, Object> measure(double seconds) throws InterruptedException, ExecutionException {
    ExecutorService threads = Executors.newFixedThreadPool(workers);
    long began = System.nanoTime();
    long deadline = began + (long) (seconds * 1e9);
    List<Future<long[]>> running = new ArrayList<>();
    for (int worker = 0; worker < workers; worker++) running.add(threads.submit((Callable<long[]>) () -> work(deadline)));
    List<long[]> all = new ArrayList<>();
    for (Future<long[]> one : running) all.add(one.get());
    double elapsed = (System.nanoTime() - began) / 1e9;
    threads.shutdown();
    long[] times = all.stream().flatMapToLong(Arrays::stream).sorted().toArray();
    Map<String, Double> percentiles = Map.of("50", times[times.length / 2] / 1e3, "99", times[times.length * 99 / 100] / 1e3);
    return Map.of("calls", times.length * runs, "seconds", elapsed, "percentiles_us", percentiles);
  }

  /** Returns the nanoseconds that each read took. */
  private long[] work(long deadline) {
    long[] times = new long[1024];
    int count = 0;
    for (long began = System.nanoTime(); began < deadline; count++) {
      if (count == times.length) times = Arrays.copyOf(times, 2 * count);
      for (int run = 0; run < runs; run++) read.of(keys[Math.floorMod(next.getAndIncrement(), keys.length)]);
      long ended = System.nanoTime();
      times[count] = (ended - began) / runs;
      began = ended;
    }
    return Arrays.copyOf(times, count);
  }
}
