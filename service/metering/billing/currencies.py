"""Currencies and their minor units."""

from decimal import ROUND_HALF_UP, Decimal

from iso4217 import Currency

from metering.errors import invalid_field
from metering.model import EXACT

MINOR_UNITS = {currency.code: currency.exponent for currency in Currency if currency.exponent is not None}
"""Decimals of each currency that has any (ISO 4217): 2 for CNY, 0 for JPY, 3 for KWD. Metals and such have none."""

_MINOR_UNIT_OF = {currency: Decimal(1).scaleb(-decimals) for currency, decimals in MINOR_UNITS.items()}
"""0.01 for CNY. Made once, since every line of every bill is rounded."""


def check_currency(code: str, field: str) -> str:
    """Return the code of a currency; raises MeteringError (INVALID_FIELD) for one that is none."""
    if code not in MINOR_UNITS:
        raise invalid_field(field, f"{code[:8]!r} is not an ISO 4217 currency code; send one such as CNY")
    return code


def round_to_minor_unit(amount: Decimal, currency: str) -> Decimal:
    """Return an amount rounded half up to the currency's minor unit."""
    return amount.quantize(_MINOR_UNIT_OF[currency], ROUND_HALF_UP, EXACT)


def has_fraction_of_minor_unit(amount: Decimal, currency: str) -> bool:
    """Tell whether an amount cannot be paid, because it has more decimals than its currency."""
    return round_to_minor_unit(amount, currency) != amount
