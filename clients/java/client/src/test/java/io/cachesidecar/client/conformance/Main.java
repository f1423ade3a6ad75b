package io.cachesidecar.client.conformance;

import static io.cachesidecar.client.conformance.Values.json;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.JsonPrimitive;
import io.cachesidecar.client.CacheSidecar;
import io.cachesidecar.client.Options;
import io.cachesidecar.client.SidecarException;
import io.cachesidecar.client.Watch;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Function;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Runs the scenarios of {@code clients/conformance/cases.json} with this library; see {@code clients/conformance/README.md}. */
public final class Main {
  /** Seconds that a stream may bring nothing. */
  private static final long SILENCE = 20;

  private static final Pattern VARIABLE = Pattern.compile("\\{([^{}]+)\\}");
  private static final Pattern NOW = Pattern.compile("now([+-]\\d+)?");
  private static final HttpClient HTTP = HttpClient.newHttpClient();

  private final JsonObject scenario;
  private final JsonArray got = new JsonArray();
  private final Map<String, JsonElement> saved = new LinkedHashMap<>();
  private CacheSidecar shop;
  private Calls calls;

  private Main(JsonObject scenario) {
    this.scenario = scenario;
    saved.put("run", new JsonPrimitive(environment("RUN")));
  }

  public static void main(String[] arguments) throws IOException {
    JsonArray cases = JsonParser.parseString(Files.readString(Path.of(environment("CASES")))).getAsJsonObject().getAsJsonArray("cases");
    for (JsonElement element : cases) {
      String name = element.getAsJsonObject().get("name").getAsString();
      if (name.contains(environment("ONLY"))) System.out.println(new Main(element.getAsJsonObject()).line());
    }
    System.exit(0);
  }

  private static String environment(String name) {
    return System.getenv().getOrDefault("CONFORMANCE_" + name, "");
  }

  private JsonObject line() {
    JsonObject line = new JsonObject();
    line.add("name", scenario.get("name"));
    try {
      run();
      line.addProperty("ok", true);
    } catch (Exception error) {
      line.addProperty("ok", false);
      line.addProperty("why", error.toString());
    }
    line.add("got", got);
    return line;
  }

  private void run() throws Exception {
    boolean isThroughFaults = scenario.has("through");
    Options.Builder options = options(isThroughFaults);
    try (CacheSidecar client = CacheSidecar.connect(options.build())) {
      shop = client;
      calls = new Calls(client, options);
      if (isThroughFaults) faults("clear", new JsonObject());
      for (JsonElement step : scenario.getAsJsonArray("steps")) got.add(step(step.getAsJsonObject()));
    }
  }

  static Options.Builder options(boolean isThroughFaults) {
    Options.Builder options = Options.builder().address(environment(isThroughFaults ? "FAULTS" : "ADDRESS"));
    if (!isThroughFaults && !environment("CA").isEmpty()) {
      options.ca(Path.of(environment("CA")));
      if (!environment("CERT").isEmpty()) options.certificate(Path.of(environment("CERT")), Path.of(environment("KEY")));
      if (!environment("SERVER_NAME").isEmpty()) options.serverName(environment("SERVER_NAME"));
    }
    if (!environment("TOKEN_FILE").isEmpty()) options.tokenFile(Path.of(environment("TOKEN_FILE")));
    return options;
  }

  private JsonElement step(JsonObject step) throws Exception {
    JsonObject args = filled(object(step, "args")).getAsJsonObject();
    JsonElement result;
    try {
      result = result(step, args);
    } catch (SidecarException error) {
      result = json(error);
    } catch (Calls.LoaderError error) {
      JsonObject fields = new JsonObject();
      fields.addProperty("type", "LoaderError");
      fields.addProperty("message", error.getMessage());
      JsonObject failed = new JsonObject();
      failed.add("error", fields);
      result = failed;
    }
    for (var entry : object(step, "save").entrySet()) {
      JsonElement found = at(result, entry.getValue().getAsString());
      if (found == null) throw new IllegalStateException("there is no " + entry.getValue() + " in " + result);
      saved.put(entry.getKey(), found);
    }
    return result;
  }

  private static JsonObject object(JsonObject of, String name) {
    return of.has(name) ? of.getAsJsonObject(name) : new JsonObject();
  }

  private JsonElement result(JsonObject step, JsonObject args) throws Exception {
    String call = step.get("call").getAsString();
    if (call.startsWith("faults.")) return faults(call.substring("faults.".length()), args);
    return switch (call) {
      case "products.watch" -> {
        long after = args.has("after_version") ? args.get("after_version").getAsLong() : 0;
        yield watch(step, shop.products().watch(after), change -> event(json(change.message()), change.missed()));
      }
      case "carts.watch" -> {
        var watch = shop.carts().watch(args.get("user_id").getAsString());
        yield watch(step, watch, change -> event(Calls.cart(change.cart()), change.missed()));
      }
      case "inventory.watch" -> {
        var watch = shop.inventory().watch(Calls.strings(args, "product_ids"), Calls.strings(args, "categories"));
        yield watch(step, watch, change -> event(json(change.message()), change.missed()));
      }
      default -> calls.result(call, args, filled(object(step, "options")).getAsJsonObject());
    };
  }

  private static JsonObject event(JsonElement message, boolean missed) {
    JsonObject event = message.getAsJsonObject();
    if (missed) event.addProperty("missed", true);
    return event;
  }

  private <E> JsonElement watch(JsonObject step, Watch<E> opened, Function<E, JsonObject> plain) throws Exception {
    try (Watch<E> watch = opened) {
      JsonObject where = filled(object(step, "where")).getAsJsonObject();
      JsonObject result = new JsonObject();
      result.add("first", plain.apply(next(watch)));
      JsonArray during = new JsonArray();
      if (step.has("during")) for (JsonElement inner : step.getAsJsonArray("during")) during.add(step(inner.getAsJsonObject()));
      JsonArray events = new JsonArray();
      int take = step.has("take") ? step.get("take").getAsInt() : 0;
      while (events.size() < take) {
        JsonObject event = plain.apply(next(watch));
        boolean isWanted = where.entrySet().stream().allMatch(entry -> entry.getValue().equals(at(event, entry.getKey())));
        if (isWanted || event.has("missed")) events.add(event);
      }
      result.add("events", events);
      result.add("during", during);
      return result;
    }
  }

  private static <E> E next(Watch<E> watch) throws Exception {
    try {
      return CompletableFuture.supplyAsync(watch::next).get(SILENCE, TimeUnit.SECONDS);
    } catch (TimeoutException silent) {
      throw new IllegalStateException("the stream brings nothing", silent);
    } catch (ExecutionException error) {
      if (error.getCause() instanceof SidecarException cause) throw cause;
      throw error;
    }
  }

  private static JsonElement faults(String what, JsonObject args) throws Exception {
    HttpRequest request =
        HttpRequest.newBuilder(URI.create(environment("FAULTS_URL") + what))
            .version(HttpClient.Version.HTTP_1_1)
            .POST(HttpRequest.BodyPublishers.ofString(args.toString()))
            .build();
    HttpResponse<String> reply = HTTP.send(request, HttpResponse.BodyHandlers.ofString());
    if (reply.statusCode() != 200) throw new IllegalStateException("faults." + what + ": " + reply.statusCode() + " " + reply.body());
    return JsonParser.parseString(reply.body());
  }

  /** Returns arguments with the values of their variables. */
  private JsonElement filled(JsonElement value) {
    if (value.isJsonArray()) {
      JsonArray list = new JsonArray();
      for (JsonElement element : value.getAsJsonArray()) list.add(filled(element));
      return list;
    }
    if (value.isJsonObject()) {
      JsonObject object = new JsonObject();
      for (var entry : value.getAsJsonObject().entrySet())
        object.add(filled(new JsonPrimitive(entry.getKey())).getAsString(), filled(entry.getValue()));
      return object;
    }
    if (value.isJsonNull() || !value.getAsJsonPrimitive().isString()) return value;
    String text = value.getAsString();
    Matcher variable = VARIABLE.matcher(text);
    if (variable.matches()) return variable(variable.group(1));
    return new JsonPrimitive(
        VARIABLE.matcher(text).replaceAll(found -> Matcher.quoteReplacement(variable(found.group(1)).getAsString())));
  }

  private JsonElement variable(String name) {
    Matcher now = NOW.matcher(name);
    if (now.matches()) {
      long seconds = now.group(1) == null ? 0 : Long.parseLong(now.group(1));
      return new JsonPrimitive(Instant.ofEpochMilli(System.currentTimeMillis() + seconds * 1000).toString());
    }
    if (name.startsWith("uuid:")) return saved.computeIfAbsent(name, key -> new JsonPrimitive(UUID.randomUUID().toString()));
    if (name.startsWith("uuid7:")) return saved.computeIfAbsent(name, key -> new JsonPrimitive(uuid7().toString()));
    JsonElement value = saved.get(name);
    if (value == null) throw new IllegalStateException("{" + name + "} was not saved by an earlier step");
    return value;
  }

  private static UUID uuid7() {
    long first = System.currentTimeMillis() << 16 | 0x7000 | ThreadLocalRandom.current().nextInt(1 << 12);
    return new UUID(first, ThreadLocalRandom.current().nextLong() >>> 2 | 1L << 63);
  }

  /** Returns what is at a path; null if there is nothing. */
  private static JsonElement at(JsonElement value, String path) {
    JsonElement found = value;
    for (String name : path.split("\\.")) {
      if (found == null || found instanceof JsonNull) return null;
      if (found.isJsonArray()) {
        int index = Integer.parseInt(name);
        found = index < found.getAsJsonArray().size() ? found.getAsJsonArray().get(index) : null;
      } else {
        found = found.isJsonObject() ? found.getAsJsonObject().get(name) : null;
      }
    }
    return found;
  }
}
