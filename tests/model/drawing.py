"""What a state machine may do, drawn at random. Few names and small numbers, so that things meet."""

from fractions import Fraction

from hypothesis import strategies as st

from tests.model.reference_rating import Price

ZONES = [
    "Asia/Shanghai",
    "UTC",
    "America/Sao_Paulo",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Africa/Cairo",  # its clocks jump over midnight
    "Asia/Beirut",
    "Pacific/Kiritimati",
    "America/St_Johns",
]
ACCOUNTS = ["ann", "bob", "cid"]
"""Accounts that may be activated at some time."""
APIS = ["A", "B"]
TIER_ENDS = [1, 2, 3, 5, 8, 100]
BILLIONTHS = [0, 1, 4_999_999, 5_000_000, 12_500_000, 333_333_333, 10**9, 2_500_000_001]

NewCall = tuple[str, tuple[str, int], str, str]
"""Account, time in relation to now, api and result code of a call."""
Prices = tuple[tuple[str, Price], ...]

unit_prices = st.sampled_from(BILLIONTHS).map(lambda billionths: Fraction(billionths, 10**9))
currencies = st.sampled_from(["CNY", "CNY", "CNY", "JPY", "KWD"])
apis = st.sampled_from(APIS)
account_ids = st.sampled_from(ACCOUNTS)
plan_ids = st.sampled_from(["p", "q", "r"])
months_back = st.sampled_from([1, 1, 1, 2, 2, 3, 0, -1])


@st.composite
def api_prices(draw: st.DrawFn) -> Price:
    model = draw(st.sampled_from(["per_call", "graduated", "volume"]))
    ends = [] if model == "per_call" else sorted(draw(st.sets(st.sampled_from(TIER_ENDS), max_size=3)))
    tiers = tuple((end, draw(unit_prices)) for end in [*ends, 0])
    uncharged = draw(st.frozensets(st.sampled_from(["E.A", "E.B"])))
    return Price(model, tiers, draw(st.sampled_from([0, 0, 1, 4])), uncharged)


price_lists = st.dictionaries(apis, api_prices(), min_size=1).map(lambda found: tuple(found.items()))
all_prices = st.fixed_dictionaries({api: api_prices() for api in APIS}).map(lambda found: tuple(found.items()))
ago = st.tuples(st.just("ago"), st.integers(0, 61 * 86_400))
whens = st.one_of(
    ago,
    st.tuples(st.just("start of month"), st.integers(0, 3)),
    st.tuples(st.just("end of month"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["now", "just ahead", "too far ahead", "just back", "too far back"]), st.just(0)),
)
codes = st.sampled_from(["", "", "E.A", "E.B"])
new_calls = st.tuples(account_ids, whens, apis, codes)
calls_in_time = st.tuples(st.sampled_from(["ann", "bob"]), ago, apis, codes)
thens = st.sampled_from(["nothing", "nothing", "run month", "run month", "restart"])
"""What is done when time has passed."""
