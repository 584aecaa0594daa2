from decimal import Decimal, localcontext

import pytest
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st

from faceid_metering import to_decimal, to_money

NANOS_MAX = (2**63 - 1) * 10**9 + 999_999_999
AMOUNTS = st.integers(-NANOS_MAX, NANOS_MAX).map(lambda nanos: Decimal(f"{nanos}E-9"))


@given(AMOUNTS)
def test_an_amount_survives_the_way_there_and_back(amount: Decimal) -> None:
    money = to_money(amount, "CNY")

    assert money.currency_code == "CNY"
    assert to_decimal(money) == amount


@given(AMOUNTS)
def test_a_decimal_context_of_few_digits_changes_nothing(amount: Decimal) -> None:
    with localcontext(prec=3):
        copy = to_decimal(to_money(amount, "CNY"))

    assert copy == amount


@given(AMOUNTS)
def test_units_and_nanos_have_the_same_sign(amount: Decimal) -> None:
    money = to_money(amount, "CNY")

    assert abs(money.nanos) < 10**9
    assert money.units * money.nanos >= 0


@pytest.mark.parametrize(
    ("amount", "units", "nanos"),
    [
        ("0", 0, 0),
        ("-0.00", 0, 0),
        ("12.5", 12, 500_000_000),
        ("-1.75", -1, -750_000_000),
        ("-0.000000001", 0, -1),
        ("1E+3", 1000, 0),
        ("0.10000000000000", 0, 100_000_000),
    ],
)
def test_amounts_are_written_as_google_describes_it(amount: str, units: int, nanos: int) -> None:
    assert to_money(Decimal(amount), "CNY") == Money(currency_code="CNY", units=units, nanos=nanos)


@pytest.mark.parametrize(("units", "nanos", "text"), [(10, 0, "10"), (12, 500_000_000, "12.5"), (0, -1, "-1E-9")])
def test_amounts_have_no_more_decimals_than_needed(units: int, nanos: int, text: str) -> None:
    assert str(to_decimal(Money(currency_code="CNY", units=units, nanos=nanos))) == text


@pytest.mark.parametrize(
    "amount", ["0.0000000001", "1.0000000005", "NaN", "Infinity", "-Infinity", "9223372036854775808"]
)
def test_what_money_cannot_hold_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match=r"is finer than|is out of range"):
        to_money(Decimal(amount), "CNY")


def test_an_amount_that_is_not_set_is_not_taken_for_zero() -> None:
    with pytest.raises(ValueError, match="not set"):
        to_decimal(Money())


@pytest.mark.parametrize(("units", "nanos"), [(1, -1), (-1, 1), (0, 10**9)])
def test_malformed_money_is_refused(units: int, nanos: int) -> None:
    with pytest.raises(ValueError, match="nanos"):
        to_decimal(Money(currency_code="CNY", units=units, nanos=nanos))
