import assert from "node:assert/strict";
import { test } from "node:test";

import { Money } from "../src/index.js";

test("an amount keeps its decimal digits", () => {
  for (const [text, units, nanos] of [
    ["9.99", 9n, 990_000_000],
    ["-0.5", 0n, -500_000_000],
    ["-1.25", -1n, -250_000_000],
    ["9223372036854775807.999999999", 9223372036854775807n, 999_999_999],
  ] as const) {
    const money = Money.of(text, "EUR");
    assert.deepEqual(money.toMessage(), { currencyCode: "EUR", units, nanos });
    assert.equal(Money.ofNanos(money.nanos, "EUR").equals(money), true);
  }
});

test("amounts are written with two digits or more after the point", () => {
  assert.equal(Money.of("10", "EUR").amount, "10.00");
  assert.equal(Money.of("0.1", "EUR").plus(Money.of("0.2", "EUR")).toString(), "0.30 EUR");
  assert.equal(Money.of("0.000000001", "EUR").amount, "0.000000001");
  assert.equal(Money.of("-1.005", "EUR").times(3).amount, "-3.015");
});

test("what is no exact amount is refused", () => {
  for (const text of ["", "9,99", "1e3", "0.0000000001", ".5", "NaN"]) assert.throws(() => Money.of(text, "EUR"), RangeError);
  assert.throws(() => Money.of(2n ** 63n, "EUR"), RangeError);
  assert.throws(() => Money.of("1", "EUR").plus(Money.of("1", "USD")), RangeError);
});
