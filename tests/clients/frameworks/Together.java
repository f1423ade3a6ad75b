package shop;

import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpSession;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;

/** Requests that a test holds after they have read their session, and before it is saved. */
@RestController
class Together {
  /** Where a request waits, and how a test knows that it does. */
  private record Gate(CountDownLatch reached, CountDownLatch opened) {}

  private final Map<String, Gate> gates = new ConcurrentHashMap<>();

  private Gate gate(String name) {
    return gates.computeIfAbsent(name, key -> new Gate(new CountDownLatch(1), new CountDownLatch(1)));
  }

  private static void pass(CountDownLatch latch) throws InterruptedException {
    if (!latch.await(3, TimeUnit.MINUTES)) throw new IllegalStateException("nobody has come");
  }

  @GetMapping("/gates/{name}")
  void reached(@PathVariable String name) throws InterruptedException {
    pass(gate(name).reached);
  }

  @PostMapping("/gates/{name}")
  void open(@PathVariable String name) {
    gate(name).opened.countDown();
  }

  @GetMapping("/attributes")
  Map<String, String> attributes(HttpSession session) {
    Map<String, String> all = new TreeMap<>();
    for (String name : Collections.list(session.getAttributeNames())) all.put(name, session.getAttribute(name).toString());
    return all;
  }

  /** Sets an attribute to a string, or to a list with it; may then do more, and waits at a gate, if one is named. */
  @PostMapping("/attributes")
  void change(
      HttpServletRequest request,
      @RequestParam String name,
      @RequestParam String value,
      @RequestParam(defaultValue = "false") boolean asObject,
      @RequestParam(defaultValue = "") String then,
      @RequestParam(defaultValue = "") String gate)
      throws InterruptedException {
    HttpSession session = request.getSession();
    if (!gate.isEmpty()) {
      gate(gate).reached.countDown();
      pass(gate(gate).opened);
    }
    session.setAttribute(name, asObject ? List.of(value) : value);
    if (then.equals("rotate")) request.changeSessionId();
    if (then.equals("invalidate")) session.invalidate();
  }
}
