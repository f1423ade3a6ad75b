package io.cachesidecar.spring;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

/** Objects as attributes of the sidecar's. */
class AttributesTest {
  private final Attributes attributes = new Attributes(getClass().getClassLoader());
  private final Map<String, String> stored = new HashMap<>();

  /** Writes what a request has changed, which knows the attributes as they were; returns what it has written. */
  private Map<String, String> write(Map<String, Object> set, Map<String, String> known) {
    Map<String, Object> now = attributes.objects(known);
    Map<String, Object> changed = new HashMap<>();
    set.forEach(
        (name, value) -> {
          changed.put(name, now.get(name));
          now.put(name, value);
        });
    now.values().removeIf(value -> value == null);
    Map<String, String> changes = attributes.changes(now, changed, known);
    changes.forEach((name, value) -> stored.compute(name, (key, before) -> value));
    return changes;
  }

  private static List<Integer> numbers(int size) {
    return new ArrayList<>(Collections.nCopies(size, 7));
  }

  @Test
  void aStringIsKeptAsItIs() {
    write(Map.of("currency", "EUR"), stored);
    assertThat(stored).isEqualTo(Map.of("currency", "EUR"));
  }

  @Test
  void whatIsNoShortStringIsKept() {
    Map<String, Object> all = Map.of("list", numbers(3), "long", "x".repeat(5000), "n".repeat(90), "a long name", "zero", "\0", "text", "ü");
    write(all, stored);
    assertThat(attributes.objects(stored)).isEqualTo(all);
    assertThat(stored.values()).allMatch(value -> value.length() <= 1024);
  }

  @Test
  void onlyWhatWasChangedIsWritten() {
    write(Map.of("list", numbers(3), "text", "a", "other", "b"), stored);
    assertThat(write(Map.of("text", "c"), Map.copyOf(stored))).isEqualTo(Map.of("text", "c"));
  }

  @Test
  void anAttributeCanBecomeAnotherKind() {
    write(Map.of("it", "text"), stored);
    write(Map.of("it", numbers(1)), Map.copyOf(stored));
    assertThat(attributes.objects(stored)).isEqualTo(Map.of("it", numbers(1)));
    write(Map.of("it", "text"), Map.copyOf(stored));
    assertThat(stored).isEqualTo(Map.of("it", "text"));
    Map<String, Object> removed = new HashMap<>();
    removed.put("it", null);
    write(removed, Map.copyOf(stored));
    assertThat(stored).isEmpty();
  }

  @Test
  void ofTwoRequestsAtOnceTheObjectsOfTheLaterOneStayWhole() {
    Map<String, String> known = Map.copyOf(stored);
    List<String> many = new ArrayList<>();
    for (int number = 0; number < 500; number++) many.add("product " + number);
    write(Map.of("seen", many), known);
    write(Map.of("seen", numbers(1)), known);
    assertThat(attributes.objects(stored)).isEqualTo(Map.of("seen", numbers(1)));
  }

  @Test
  void tooMuchIsRefusedWithItsNames() {
    assertThatThrownBy(() -> write(Map.of("photo", new byte[60_000]), stored)).hasMessageContaining("[photo]").hasMessageContaining("64512");
  }
}
