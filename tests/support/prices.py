"""Prices of any kind, for Hypothesis."""

from decimal import Decimal

from hypothesis import strategies as st

from metering.model import ApiPrice, PriceModel, Tier

TRILLION = 10**12

unit_prices = st.integers(0, 10**15).map(lambda billionths: Decimal(billionths).scaleb(-9))


@st.composite
def api_prices(
    draw: st.DrawFn, models: tuple[PriceModel, ...] = tuple(PriceModel), tier_end_max: int = TRILLION
) -> ApiPrice:
    model = draw(st.sampled_from(models))
    ends: list[int] = []
    if model is not PriceModel.PER_CALL:
        ends = sorted(draw(st.sets(st.integers(1, tier_end_max), max_size=4)))
    tiers = tuple(Tier(end, draw(unit_prices)) for end in [*ends, None])
    return ApiPrice("DetectAuth", model, tiers, free_calls=draw(st.just(0) | st.integers(0, tier_end_max)))
