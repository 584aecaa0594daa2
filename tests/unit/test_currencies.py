"""Currencies and rounding to their minor units."""

from decimal import Decimal
from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.billing.currencies import MINOR_UNITS, check_currency, has_fraction_of_minor_unit, round_to_minor_unit
from metering.errors import MeteringError, Reason

currencies = st.sampled_from(sorted(MINOR_UNITS))
amounts = st.builds(
    lambda number, decimals: Decimal(number).scaleb(-decimals), st.integers(0, 10**27), st.integers(0, 9)
)


@given(amounts, currencies)
def test_an_amount_is_rounded_half_up_to_the_minor_unit(amount: Decimal, currency: str) -> None:
    units = 10 ** MINOR_UNITS[currency]
    rounded = round_to_minor_unit(amount, currency)
    assert Fraction(rounded) == Fraction(floor(Fraction(amount) * units + Fraction(1, 2)), units)


@given(amounts, currencies)
def test_a_rounded_amount_has_the_decimals_of_its_currency_and_stays_as_it_is(amount: Decimal, currency: str) -> None:
    rounded = round_to_minor_unit(amount, currency)
    assert rounded.as_tuple().exponent == -MINOR_UNITS[currency]
    assert round_to_minor_unit(rounded, currency) == rounded
    assert not has_fraction_of_minor_unit(rounded, currency)


@given(amounts, currencies)
def test_only_a_whole_number_of_minor_units_can_be_paid(amount: Decimal, currency: str) -> None:
    whole = (Fraction(amount) * 10 ** MINOR_UNITS[currency]).denominator == 1
    assert has_fraction_of_minor_unit(amount, currency) is not whole


@pytest.mark.parametrize(
    ("amount", "currency", "rounded"),
    [
        ("0.004999999", "CNY", "0.00"),
        ("0.005", "CNY", "0.01"),
        ("0.015", "CNY", "0.02"),
        ("0.025", "USD", "0.03"),  # half even would give 0.02
        ("0.5", "JPY", "1"),
        ("1.5", "JPY", "2"),
        ("2.499999999", "JPY", "2"),
        ("0.0005", "KWD", "0.001"),
        ("0.0015", "KWD", "0.002"),
        ("999999999999999999.995", "CNY", "1000000000000000000.00"),
    ],
)
def test_half_of_a_minor_unit_is_rounded_up(amount: str, currency: str, rounded: str) -> None:
    assert str(round_to_minor_unit(Decimal(amount), currency)) == rounded


@pytest.mark.parametrize(("currency", "decimals"), [("CNY", 2), ("USD", 2), ("EUR", 2), ("JPY", 0), ("KWD", 3)])
def test_currencies_have_the_minor_units_of_iso_4217(currency: str, decimals: int) -> None:
    assert MINOR_UNITS[currency] == decimals
    assert check_currency(currency, "currency") == currency


@pytest.mark.parametrize("code", ["", "cny", "RMB", "CNY ", "XAU", "XXX", "CN", "¥", "CNYCNY"])
def test_what_cannot_be_paid_in_is_no_currency(code: str) -> None:
    with pytest.raises(MeteringError, match="is not an ISO 4217 currency code") as refused:
        check_currency(code, "price_plan.currency")
    assert refused.value.reason is Reason.INVALID_FIELD
    assert [violation.field for violation in refused.value.violations] == ["price_plan.currency"]
