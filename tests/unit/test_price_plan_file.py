"""Price plans in files: what is read, and on which line something is wrong."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faceid_metering import messages as pb
from metering.commands.common import FileError
from metering.commands.price_plan_file import FILE_BYTES_MAX, PRICE_PLAN, read_price_plan, to_toml

DOCS = Path(__file__).parents[2] / "docs" / "billing.md"
TOML = """\
price_plan_id = "standard"
currency = "CNY"

[[prices]]
api = "DetectAuth"
free_calls = 100
per_call = { unit_price = "0.0125" }

[[prices]]
api = "CompareFace"  # of two pictures
uncharged_result_codes = ["InternalError",
  "Busy"]
graduated.tiers = [
  # cheap at first
  { up_to = 10000, unit_price = "0.02" },
  { unit_price = "0.009999999" },
]

[[prices]]
api = "LivenessCheck"
[[prices.volume.tiers]]
up_to = 5
unit_price = "1"
[[prices.volume.tiers]]
unit_price = "2"
"""
PLAN = pb.PricePlan(
    price_plan_id="standard",
    currency="CNY",
    prices=[
        pb.ApiPrice(api="DetectAuth", free_calls=100, per_call=pb.PerCallPrice(unit_price="0.0125")),
        pb.ApiPrice(
            api="CompareFace",
            uncharged_result_codes=["InternalError", "Busy"],
            graduated=pb.TieredPrice(
                tiers=[pb.Tier(up_to=10_000, unit_price="0.02"), pb.Tier(unit_price="0.009999999")]
            ),
        ),
        pb.ApiPrice(
            api="LivenessCheck",
            volume=pb.TieredPrice(tiers=[pb.Tier(up_to=5, unit_price="1"), pb.Tier(unit_price="2")]),
        ),
    ],
)
DOCUMENT: dict[str, Any] = {
    "price_plan_id": "standard",
    "currency": "CNY",
    "prices": [
        {"api": "DetectAuth", "free_calls": 100, "per_call": {"unit_price": "0.0125"}},
        {
            "api": "CompareFace",
            "uncharged_result_codes": ["InternalError", "Busy"],
            "graduated": {"tiers": [{"up_to": 10_000, "unit_price": "0.02"}, {"unit_price": "0.009999999"}]},
        },
        {"api": "LivenessCheck", "volume": {"tiers": [{"up_to": 5, "unit_price": "1"}, {"unit_price": "2"}]}},
    ],
}


def written(directory: Path, text: str, name: str = "plan.toml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def refused(directory: Path, text: str, name: str = "plan.toml") -> str:
    path = written(directory, text, name)
    with pytest.raises(FileError) as error:
        read_price_plan(path)
    return str(error.value).removeprefix(str(path))


def test_toml_and_json_hold_the_fields_of_the_contract(tmp_path: Path) -> None:
    assert read_price_plan(written(tmp_path, TOML)).plan == PLAN
    assert read_price_plan(written(tmp_path, json.dumps(DOCUMENT), "plan.json")).plan == PLAN


def test_all_fields_of_the_contract_can_be_written_and_no_others() -> None:
    def check(shape: Any, message: Any) -> None:
        assert set(shape) == set(message.fields_by_name)
        for name, inner in shape.items():
            kind = inner[0] if isinstance(inner, list) else inner
            if isinstance(kind, Mapping):
                check(kind, message.fields_by_name[name].message_type)

    check(PRICE_PLAN, pb.PricePlan.DESCRIPTOR)


def test_the_plan_in_the_docs_can_be_read_and_its_error_is_the_real_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    file = read_price_plan(written(tmp_path, text, "standard.toml"))
    assert [price.api for price in file.plan.prices] == ["DetectAuth", "CompareFace", "LivenessCheck"]
    assert read_price_plan(written(tmp_path, to_toml(file.plan))).plan == file.plan
    (told,) = re.findall(r"Error: (standard\.toml, line .*)", DOCS.read_text())
    description = "'-0.02' is not a price; write a decimal such as 0.0125"
    error = file.error("price_plan.prices[1].graduated.tiers[0].unit_price", description)
    assert str(error) == str(tmp_path / told)


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("price_plan", 1),
        ("price_plan.price_plan_id", 1),
        ("price_plan.currency", 2),
        ("price_plan.prices[0].api", 5),
        ("price_plan.prices[0].free_calls", 6),
        ("price_plan.prices[0].per_call.unit_price", 7),
        ("price_plan.prices[1]", 10),
        ("price_plan.prices[1].api", 10),
        ("price_plan.prices[1].uncharged_result_codes[1]", 12),
        ("price_plan.prices[1].graduated.tiers[0].up_to", 15),
        ("price_plan.prices[1].graduated.tiers[1].unit_price", 16),
        ("price_plan.prices[1].graduated.tiers[1].up_to", 16),  # is missing there
        ("price_plan.prices[2].volume.tiers[0].up_to", 22),
        ("price_plan.prices[2].volume.tiers[1].unit_price", 25),
    ],
)
def test_a_field_that_the_service_refuses_is_told_with_its_line(tmp_path: Path, field: str, line: int) -> None:
    path = written(tmp_path, TOML)
    error = str(read_price_plan(path).error(field, "is wrong"))
    name = field.removeprefix("price_plan").removeprefix(".")
    assert error == f"{path}, line {line}: {name}{': ' if name else ''}is wrong"


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_in_json_as_well(tmp_path: Path, indent: int | str | None) -> None:
    text = json.dumps(DOCUMENT, indent=indent)
    file = read_price_plan(written(tmp_path, text, "plan.json"))
    for field, value in (
        ("prices[1].graduated.tiers[1].unit_price", '"0.009999999"'),
        ("prices[1].graduated.tiers[0].up_to", "10000"),
        ("prices[2].api", '"LivenessCheck"'),
        ("prices[1].uncharged_result_codes[1]", '"Busy"'),
        ("currency", '"CNY"'),
    ):
        (line,) = (number for number, each in enumerate(text.splitlines(), 1) if value in each)
        assert f", line {line}: {field}: is wrong" in str(file.error(f"price_plan.{field}", "is wrong"))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('"0.0125"', "0.0125", ', line 7: prices[0].per_call.unit_price: must be text in quotes, such as "0.0125"'),
        ("100", '"100"', ", line 6: prices[0].free_calls: must be a whole number"),
        ("100", "true", ", line 6: prices[0].free_calls: must be a whole number"),
        ("100", "9223372036854775808", ", line 6: prices[0].free_calls: must be a whole number"),
        ("free_calls", "freecalls", ", line 6: prices[0].freecalls: is not known; there are api, per_call"),
        ('{ unit_price = "0.0125" }', "1", ", line 7: prices[0].per_call: must be a table with unit_price"),
        ('  "Busy"]', "  7]", ", line 12: prices[1].uncharged_result_codes[1]: must be text in quotes"),
        ('api = "DetectAuth"', "volume = {}", ", line 7: prices[0].per_call: is a second price beside volume"),
        ('api = "LivenessCheck"', "api =", ": Invalid value (at line 20, column 6)"),
        ("free_calls = 100", "free_calls = 1\nfree_calls = 2", ": Cannot overwrite a value (at line 7, column 15)"),
    ],
)
def test_what_is_malformed_is_told_with_its_line(tmp_path: Path, before: str, after: str, said: str) -> None:
    assert TOML.count(before) >= 1
    assert refused(tmp_path, TOML.replace(before, after, 1)).startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n"currency": \n}', ", line 3: Expecting value"),
        ('{"currency": "CNY", "currency": "USD"}', ": currency stands twice in one table"),
        ("[]", ", line 1: must be a table with price_plan_id"),
        ('{"prices": {}}', ", line 1: prices: must be a list"),
        ('{"currency":\n\n"\\ud800"}', ", line 3: currency: must be text"),
        ("[" * 100_000, ": "),
    ],
)
def test_malformed_json_is_told_plainly(tmp_path: Path, text: str, said: str) -> None:
    assert refused(tmp_path, text, "plan.json").startswith(said)


def test_what_is_no_text_or_too_large_is_told_plainly(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_bytes(b'currency = "CNY"\nprice_plan_id = "\xff"\n')
    with pytest.raises(FileError, match="line 2: is not UTF-8"):
        read_price_plan(path)
    path.write_bytes(b"#" * (FILE_BYTES_MAX + 1))
    with pytest.raises(FileError, match="too many"):
        read_price_plan(path)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(0, 2**63 - 1)
tiers = st.builds(pb.Tier, up_to=numbers, unit_price=texts)
api_prices = st.builds(
    pb.ApiPrice, api=texts, free_calls=numbers, uncharged_result_codes=st.lists(texts, max_size=3)
).flatmap(
    lambda price: st.one_of(
        st.builds(pb.PerCallPrice, unit_price=texts).map(lambda model: _with(price, per_call=model)),
        st.builds(pb.TieredPrice, tiers=st.lists(tiers, max_size=3)).map(lambda model: _with(price, graduated=model)),
        st.builds(pb.TieredPrice, tiers=st.lists(tiers, max_size=3)).map(lambda model: _with(price, volume=model)),
    )
)
plans = st.builds(pb.PricePlan, price_plan_id=texts, currency=texts, prices=st.lists(api_prices, max_size=4))


def _with(price: pb.ApiPrice, **model: Any) -> pb.ApiPrice:
    merged = pb.ApiPrice(**model)
    merged.MergeFrom(price)
    return merged


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plans, st.integers(0, 2**31 - 1))
def test_what_is_shown_can_be_put_again(tmp_path: Path, plan: pb.PricePlan, version: int) -> None:
    shown = pb.PricePlan()
    shown.MergeFrom(plan)
    shown.version = version
    assert read_price_plan(written(tmp_path, to_toml(shown))).plan == plan
