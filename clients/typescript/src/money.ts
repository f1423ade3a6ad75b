import type { Money as MoneyMessage } from "./gen/google/type/money_pb.js";

const NANOS = 1_000_000_000n;
const DECIMAL = /^([+-]?)(\d+)(?:\.(\d{1,9}))?$/;
const MAX_UNITS = 2n ** 63n;

/**
 * An exact amount of a currency, with up to nine digits after the point. JavaScript's numbers are binary fractions and
 * cannot hold 0.10; this holds an integer of billionths.
 */
export class Money {
  private constructor(
    /** The amount in billionths (10^-9) of the currency's unit. */
    readonly nanos: bigint,
    /** The currency's three-letter code (ISO 4217), such as `EUR`. */
    readonly currency: string,
  ) {}

  /** Returns an amount written as a decimal number, such as `Money.of("9.99", "EUR")`, or a whole one, as a bigint. */
  static of(amount: string | bigint, currency: string): Money {
    if (typeof amount === "bigint") return Money.ofNanos(amount * NANOS, currency);
    const [, sign, units, fraction = ""] = DECIMAL.exec(amount) ?? [];
    if (units === undefined)
      throw new RangeError(`"${amount}" is no amount: write digits, and up to nine after a point, such as "9.99"`);
    const size = BigInt(units) * NANOS + BigInt(fraction.padEnd(9, "0"));
    return Money.ofNanos(sign === "-" ? -size : size, currency);
  }

  /** Returns an amount of so many billionths. */
  static ofNanos(nanos: bigint, currency: string): Money {
    const units = nanos / NANOS;
    if (units >= MAX_UNITS || units < -MAX_UNITS) throw new RangeError(`an amount has at most 19 digits before the point, not ${units}`);
    return new Money(nanos, currency);
  }

  /** Returns what a message holds. */
  static fromMessage(message: MoneyMessage): Money {
    return new Money(message.units * NANOS + BigInt(message.nanos), message.currencyCode);
  }

  /** Returns the fields of a `google.type.Money`: units and nanos have the same sign. */
  toMessage(): { currencyCode: string; units: bigint; nanos: number } {
    return { currencyCode: this.currency, units: this.nanos / NANOS, nanos: Number(this.nanos % NANOS) };
  }

  /** The amount as a decimal number, with at least two digits after the point: `9.90`. */
  get amount(): string {
    const size = this.nanos < 0n ? -this.nanos : this.nanos;
    const fraction = (size % NANOS).toString().padStart(9, "0").replace(/0{1,7}$/, "");
    return `${this.nanos < 0n ? "-" : ""}${size / NANOS}.${fraction}`;
  }

  plus(other: Money): Money {
    if (other.currency !== this.currency) throw new RangeError(`${this.currency} and ${other.currency} cannot be added`);
    return Money.ofNanos(this.nanos + other.nanos, this.currency);
  }

  /** Returns the amount so many times; whole numbers only. */
  times(count: number | bigint): Money {
    return Money.ofNanos(this.nanos * BigInt(count), this.currency);
  }

  equals(other: Money): boolean {
    return this.nanos === other.nanos && this.currency === other.currency;
  }

  toString(): string {
    return `${this.amount} ${this.currency}`;
  }

  toJSON(): { amount: string; currency: string } {
    return { amount: this.amount, currency: this.currency };
  }
}
