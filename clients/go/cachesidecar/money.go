package cachesidecar

import (
	"cmp"
	"encoding"
	"fmt"
	"math"
	"math/big"
	"strings"

	"google.golang.org/genproto/googleapis/type/money"
)

const nanosPerUnit = 1_000_000_000

// Money is an exact amount in a currency, to nine decimals. Its zero value has no currency and is sent as "not set". Two
// amounts can be compared with ==.
type Money struct {
	currency string
	units    int64
	nanos    int32 // of the same sign as units
}

var (
	_ encoding.TextMarshaler   = Money{}
	_ encoding.TextUnmarshaler = (*Money)(nil)
)

// NewMoney returns an amount such as NewMoney("9.99", "EUR"): digits with at most nine decimals, and an ISO 4217 code.
func NewMoney(amount, currency string) (Money, error) {
	// Only what is written in decimals: SetString also reads fractions and exponents.
	if strings.Trim(amount, "+-.0123456789") != "" {
		return Money{}, fmt.Errorf("cachesidecar: %q is no amount: write it as 9.99", amount)
	}
	exact, ok := new(big.Rat).SetString(amount)
	if !ok {
		return Money{}, fmt.Errorf("cachesidecar: %q is no amount: write it as 9.99", amount)
	}
	return MoneyFromRat(exact, currency)
}

// MustMoney is NewMoney for constants: it panics where NewMoney returns an error.
func MustMoney(amount, currency string) Money {
	m, err := NewMoney(amount, currency)
	if err != nil {
		panic(err)
	}
	return m
}

// MoneyFromRat returns an amount that has at most nine decimals; others are refused, not rounded.
func MoneyFromRat(amount *big.Rat, currency string) (Money, error) {
	if len(currency) != 3 || strings.Trim(currency, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return Money{}, fmt.Errorf("cachesidecar: %q is no currency: use three capital letters (ISO 4217), such as EUR", currency)
	}
	scaled := new(big.Rat).Mul(amount, big.NewRat(nanosPerUnit, 1))
	if !scaled.IsInt() {
		return Money{}, fmt.Errorf("cachesidecar: %s has more than nine decimals: round it first", amount.RatString())
	}
	units, nanos := new(big.Int).QuoRem(scaled.Num(), big.NewInt(nanosPerUnit), new(big.Int))
	if !units.IsInt64() {
		return Money{}, fmt.Errorf("cachesidecar: %s is larger than an amount can be", amount.FloatString(2))
	}
	return Money{currency: currency, units: units.Int64(), nanos: int32(nanos.Int64())}, nil
}

// Currency returns the ISO 4217 code.
func (m Money) Currency() string { return m.currency }

// Units returns the whole units of the amount, rounded towards zero.
func (m Money) Units() int64 { return m.units }

// Nanos returns what Units leaves out, in billionths; it has the sign of the amount.
func (m Money) Nanos() int32 { return m.nanos }

// IsZero returns whether the amount is 0, in whatever currency.
func (m Money) IsZero() bool { return m.units == 0 && m.nanos == 0 }

// Rat returns the exact amount.
func (m Money) Rat() *big.Rat {
	whole := new(big.Rat).SetInt64(m.units)
	return whole.Add(whole, big.NewRat(int64(m.nanos), nanosPerUnit))
}

// Add returns the sum. Both must have the same currency.
func (m Money) Add(other Money) (Money, error) {
	if m.currency != other.currency {
		return Money{}, fmt.Errorf("cachesidecar: cannot add %s to %s: convert one of them first", other, m)
	}
	return MoneyFromRat(new(big.Rat).Add(m.Rat(), other.Rat()), m.currency)
}

// Mul returns the amount times n, such as the price of n pieces.
func (m Money) Mul(n int64) (Money, error) {
	return MoneyFromRat(new(big.Rat).Mul(m.Rat(), new(big.Rat).SetInt64(n)), m.currency)
}

// Cmp compares two amounts of one currency as cmp.Compare does. Amounts of different currencies are ordered by their codes.
func (m Money) Cmp(other Money) int {
	return cmp.Or(
		cmp.Compare(m.currency, other.currency), cmp.Compare(m.units, other.units), cmp.Compare(m.nanos, other.nanos))
}

// Amount returns the amount without its currency: at least two decimals, and as many as it takes to be exact.
func (m Money) Amount() string {
	sign := ""
	if m.units < 0 || m.nanos < 0 {
		sign = "-"
	}
	units := uint64(m.units)
	if m.units < 0 {
		units = -units // also right for the smallest number, which has no positive counterpart
	}
	decimals := fmt.Sprintf("%09d", max(m.nanos, -m.nanos))
	return fmt.Sprintf("%s%d.%s%s", sign, units, decimals[:2], strings.TrimRight(decimals[2:], "0"))
}

// String returns the amount and its currency, such as "9.99 EUR".
func (m Money) String() string { return strings.TrimSpace(m.Amount() + " " + m.currency) }

// MarshalText writes what String returns.
func (m Money) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what String returns.
func (m *Money) UnmarshalText(text []byte) error {
	amount, currency, _ := strings.Cut(string(text), " ")
	read, err := NewMoney(amount, currency)
	if err == nil {
		*m = read
	}
	return err
}

func moneyFrom(m *money.Money) Money {
	return Money{currency: m.GetCurrencyCode(), units: m.GetUnits(), nanos: m.GetNanos()}
}

func moneysFrom(list []*money.Money) []Money {
	return each(list, moneyFrom)
}

// proto returns nil for the zero value, so that the server says that a price is missing.
func (m Money) proto() *money.Money {
	if m == (Money{}) {
		return nil
	}
	return &money.Money{CurrencyCode: m.currency, Units: m.units, Nanos: m.nanos}
}

// each converts the elements of a slice; nil stays nil.
func each[From, To any](list []From, convert func(From) To) []To {
	if list == nil {
		return nil
	}
	converted := make([]To, len(list))
	for i, one := range list {
		converted[i] = convert(one)
	}
	return converted
}

// int32From returns a number of the API, or an error where it does not fit: nothing is cut off.
func int32From(n int, what string) (int32, error) {
	if n < math.MinInt32 || n > math.MaxInt32 {
		return 0, fmt.Errorf("cachesidecar: %s is %d, but at most %d is possible", what, n, math.MaxInt32)
	}
	return int32(n), nil
}
