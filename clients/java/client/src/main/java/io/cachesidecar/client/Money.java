package io.cachesidecar.client;

import java.math.BigDecimal;
import java.util.Objects;

/** An exact amount of a currency: at most nine digits after the point, and a three-letter code such as {@code EUR}. */
public record Money(BigDecimal amount, String currency) {
  private static final BigDecimal MAX = new BigDecimal(Long.MAX_VALUE).add(BigDecimal.ONE);

  /** Throws IllegalArgumentException if the amount cannot be held exactly. */
  public Money {
    Objects.requireNonNull(currency, "currency");
    BigDecimal exact = amount.stripTrailingZeros();
    if (exact.scale() > 9) throw new IllegalArgumentException(amount + " has more than nine digits after the point");
    if (exact.abs().compareTo(MAX) >= 0) throw new IllegalArgumentException(amount + " has more than 18 digits before the point");
    // One form for each amount, so that equal amounts are equal records. Two digits, as most currencies are written.
    amount = exact.scale() < 2 ? exact.setScale(2) : exact;
  }

  /** Returns an amount such as {@code Money.of("9.99", "EUR")}. */
  public static Money of(String amount, String currency) {
    return new Money(new BigDecimal(amount), currency);
  }

  /** Returns what a message holds. */
  public static Money of(com.google.type.Money message) {
    BigDecimal amount = BigDecimal.valueOf(message.getUnits()).add(BigDecimal.valueOf(message.getNanos(), 9));
    return new Money(amount, message.getCurrencyCode());
  }

  /** Returns the amount as a message: units and nanos have the same sign. */
  public com.google.type.Money toMessage() {
    long units = amount.longValue();
    int nanos = amount.subtract(BigDecimal.valueOf(units)).movePointRight(9).intValueExact();
    return com.google.type.Money.newBuilder().setCurrencyCode(currency).setUnits(units).setNanos(nanos).build();
  }

  public Money plus(Money other) {
    if (!currency.equals(other.currency)) throw new IllegalArgumentException(currency + " and " + other.currency + " cannot be added");
    return new Money(amount.add(other.amount), currency);
  }

  public Money times(long count) {
    return new Money(amount.multiply(BigDecimal.valueOf(count)), currency);
  }

  @Override
  public String toString() {
    return amount.toPlainString() + " " + currency;
  }
}
