package cachesidecar

import (
	"encoding/json"
	"math"
	"math/big"
	"testing"
)

func TestAmountsAreExact(t *testing.T) {
	for _, c := range []struct {
		amount string
		units  int64
		nanos  int32
		text   string
	}{
		{"9.99", 9, 990_000_000, "9.99 EUR"},
		{"0", 0, 0, "0.00 EUR"},
		{"-0.5", 0, -500_000_000, "-0.50 EUR"},
		{"-12.000000001", -12, -1, "-12.000000001 EUR"},
		{"+7", 7, 0, "7.00 EUR"},
		{"9223372036854775807.999999999", math.MaxInt64, 999_999_999, "9223372036854775807.999999999 EUR"},
		{"-9223372036854775808", math.MinInt64, 0, "-9223372036854775808.00 EUR"},
	} {
		m, err := NewMoney(c.amount, "EUR")
		if err != nil {
			t.Fatal(err)
		}
		if m.Units() != c.units || m.Nanos() != c.nanos || m.String() != c.text {
			t.Errorf("%s is %d units, %d nanos, %q", c.amount, m.Units(), m.Nanos(), m)
		}
		if again := moneyFrom(m.proto()); again != m {
			t.Errorf("%s becomes %s on the wire", m, again)
		}
		if again, err := MoneyFromRat(m.Rat(), "EUR"); err != nil || again != m {
			t.Errorf("%s becomes %s as a Rat: %v", m, again, err)
		}
	}
}

func TestAmountsThatCannotBeExactAreRefused(t *testing.T) {
	for _, amount := range []string{"", "x", "1e3", "1/3", "0x10", "1_000", "1.0000000001", "9223372036854775808", "--1", "1.2.3"} {
		if m, err := NewMoney(amount, "EUR"); err == nil {
			t.Errorf("%q is read as %s", amount, m)
		}
	}
	for _, currency := range []string{"", "eur", "EURO", "E1R"} {
		if m, err := NewMoney("1", currency); err == nil {
			t.Errorf("currency %q is read as %s", currency, m)
		}
	}
	if _, err := MoneyFromRat(big.NewRat(1, 3), "EUR"); err == nil {
		t.Error("a third of a euro is no amount")
	}
}

func TestArithmetic(t *testing.T) {
	price := MustMoney("0.10", "EUR")
	sum := Money{currency: "EUR"}
	for range 10 {
		var err error
		if sum, err = sum.Add(price); err != nil {
			t.Fatal(err)
		}
	}
	if sum != MustMoney("1", "EUR") {
		t.Errorf("ten times 0.10 is %s", sum)
	}
	if times, err := price.Mul(-3); err != nil || times != MustMoney("-0.3", "EUR") {
		t.Errorf("-3 times 0.10 is %s: %v", times, err)
	}
	if _, err := price.Add(MustMoney("1", "USD")); err == nil {
		t.Error("euros and dollars cannot be added")
	}
	if _, err := MustMoney("9223372036854775807", "EUR").Add(MustMoney("1", "EUR")); err == nil {
		t.Error("a sum that is too large must be an error")
	}
	if price.Cmp(sum) != -1 || sum.Cmp(price) != 1 || sum.Cmp(sum) != 0 {
		t.Error("amounts are not in order")
	}
	if MustMoney("-0.5", "EUR").Cmp(MustMoney("-0.4", "EUR")) != -1 {
		t.Error("-0.5 is less than -0.4")
	}
}

func TestMoneyInJSON(t *testing.T) {
	text, err := json.Marshal(map[string]Money{"price": MustMoney("9.9", "EUR")})
	if err != nil || string(text) != `{"price":"9.90 EUR"}` {
		t.Fatalf("%s: %v", text, err)
	}
	var read map[string]Money
	if err := json.Unmarshal(text, &read); err != nil || read["price"] != MustMoney("9.90", "EUR") {
		t.Fatalf("%v: %v", read, err)
	}
}

func TestNoMoneyIsNotSent(t *testing.T) {
	if sent := (Money{}).proto(); sent != nil {
		t.Errorf("the zero value is sent as %v", sent)
	}
	if read := moneyFrom(nil); read != (Money{}) {
		t.Errorf("what is not set is read as %s", read)
	}
	free := MustMoney("0", "EUR")
	if sent := free.proto(); sent == nil || sent.CurrencyCode != "EUR" || !free.IsZero() {
		t.Errorf("0 EUR is sent as %v", sent)
	}
}
