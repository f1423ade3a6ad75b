package shop;

import static io.cachesidecar.client.CacheSidecar.await;

import io.cachesidecar.client.CacheSidecar;
import io.cachesidecar.client.Cart;
import io.cachesidecar.client.Money;
import io.cachesidecar.client.Product;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpSession;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.web.context.WebServerInitializedEvent;
import org.springframework.context.event.EventListener;
import org.springframework.session.FindByIndexNameSessionRepository;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;

/** A shop's pages: a product, a cart, and visitors who are remembered. Open the address that it prints; PORT=0 chooses a port. */
@SpringBootApplication
@RestController
public class Shop {
  private static final String USER = FindByIndexNameSessionRepository.PRINCIPAL_NAME_INDEX_NAME;
  private final CacheSidecar sidecar;

  Shop(CacheSidecar sidecar) {
    this.sidecar = sidecar;
  }

  public static void main(String[] arguments) {
    SpringApplication.run(Shop.class, arguments);
  }

  @EventListener
  void print(WebServerInitializedEvent event) {
    System.out.println("http://127.0.0.1:" + event.getWebServer().getPort() + "/");
  }

  /** What a visitor has looked at. */
  record Seen(List<String> products) implements Serializable {}

  @GetMapping("/")
  Map<String, Object> home(HttpSession session) {
    int visits = Integer.parseInt(Objects.requireNonNullElse((String) session.getAttribute("visits"), "0")) + 1;
    session.setAttribute("visits", String.valueOf(visits));
    Seen seen = (Seen) session.getAttribute("seen");
    return Map.of("visits", visits, "user", user(session), "seen", seen == null ? List.of() : seen.products());
  }

  @PostMapping("/login")
  Map<String, Object> login(HttpServletRequest request, @RequestParam String user) {
    HttpSession session = request.getSession();
    request.changeSessionId(); // Spring Security does both of these by itself
    session.setAttribute(USER, user);
    return Map.of("user", user);
  }

  @PostMapping("/logout")
  void logout(HttpSession session) {
    session.invalidate();
  }

  /** Without a handler for errors: a product that is not there is a page with the status 404. */
  @GetMapping("/products/{id}")
  Map<String, Object> product(@PathVariable String id, HttpSession session) {
    Product product = await(sidecar.products().get(id));
    Seen seen = (Seen) session.getAttribute("seen");
    List<String> products = new ArrayList<>(seen == null ? List.of() : seen.products());
    products.add(id);
    session.setAttribute("seen", new Seen(products));
    return Map.of("title", product.title(), "price", price(product).toString());
  }

  @PostMapping("/cart/{id}")
  Map<String, Object> add(@PathVariable String id, @RequestParam(defaultValue = "1") int quantity, HttpSession session) {
    Product product = await(sidecar.products().get(id));
    Cart cart = await(sidecar.carts().edit(user(session), edit -> edit.add(id, quantity, price(product)))).orElseThrow();
    return Map.of("quantity", cart.quantity(), "total", cart.totals().get(0).toString());
  }

  private static Money price(Product product) {
    return product.price().orElse(Money.of("0", "EUR"));
  }

  private static String user(HttpSession session) {
    return Objects.requireNonNullElse((String) session.getAttribute(USER), "stranger");
  }
}
