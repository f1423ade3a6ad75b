package io.cachesidecar.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import org.junit.jupiter.api.Test;

class MoneyTest {
  @Test
  void anAmountKeepsItsDigits() {
    for (String amount : new String[] {"9.99", "-0.5", "-1.25", "0.000000001", "9223372036854775807.999999999", "0"}) {
      Money money = Money.of(amount, "EUR");
      assertEquals(money, Money.of(money.toMessage()));
    }
    assertEquals(-1, Money.of("-1.25", "EUR").toMessage().getUnits());
    assertEquals(-250_000_000, Money.of("-1.25", "EUR").toMessage().getNanos());
  }

  @Test
  void equalAmountsAreEqual() {
    assertEquals(Money.of("10", "EUR"), Money.of("10.000", "EUR"));
    assertEquals("10.00 EUR", Money.of("1E1", "EUR").toString());
    assertEquals("0.30 EUR", Money.of("0.1", "EUR").plus(Money.of("0.2", "EUR")).toString());
    assertEquals("19.98 EUR", Money.of("9.99", "EUR").times(2).toString());
  }

  @Test
  void whatCannotBeHeldIsRefused() {
    assertThrows(IllegalArgumentException.class, () -> Money.of("0.0000000001", "EUR"));
    assertThrows(IllegalArgumentException.class, () -> Money.of("9223372036854775808", "EUR"));
    assertThrows(IllegalArgumentException.class, () -> Money.of("1", "EUR").plus(Money.of("1", "USD")));
  }
}
