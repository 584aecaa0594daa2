"""Between google.type.Money and Decimal, exactly."""

from decimal import Context, Decimal, Inexact

from google.type.money_pb2 import Money

_NANOS = 1_000_000_000
_UNITS_END = 2**63

# int64 units and 9 decimals are 28 digits; the caller's own decimal context may be set to fewer.
_DIGITS = 28


def to_decimal(money: Money) -> Decimal:
    """Return the amount, without the currency.

    Raises:
        ValueError: It is not set (as `charges` of a usage that has no price), or its nanos are malformed.
    """
    if not money.currency_code:
        raise ValueError("the amount is not set: it has no currency")
    if abs(money.nanos) >= _NANOS or money.units * money.nanos < 0:
        raise ValueError(f"nanos are out of range or differ in sign from units: {money.units}, {money.nanos}")
    exact = Context(prec=_DIGITS, traps=[Inexact])
    fraction = exact.scaleb(Decimal(money.nanos), -9).normalize(exact)
    return exact.add(Decimal(money.units), fraction)


def to_money(amount: Decimal, currency: str) -> Money:
    """Return an amount in a currency (ISO 4217, such as `CNY`).

    Raises:
        ValueError: The amount is finer than 10^-9, not within ±2^63, or no number.
    """
    if not amount.is_finite() or amount.copy_abs() >= _UNITS_END:
        raise ValueError(f"{amount} is out of range")
    numerator, denominator = amount.as_integer_ratio()
    nanos, remainder = divmod(abs(numerator) * _NANOS, denominator)
    if remainder:
        raise ValueError(f"{amount} is finer than 10^-9")
    sign = -1 if numerator < 0 else 1
    return Money(currency_code=currency, units=sign * (nanos // _NANOS), nanos=sign * (nanos % _NANOS))
