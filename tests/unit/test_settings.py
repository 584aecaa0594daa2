"""Settings say at start what is wrong with them."""

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from metering.settings import Settings, split_address


def test_the_defaults_can_be_served_with_and_are_seen_by_this_machine_only() -> None:
    settings = Settings()
    assert split_address(settings.listen) == ("127.0.0.1", 50051)
    assert split_address(settings.metrics_listen) == ("127.0.0.1", 9464)
    assert settings.billing_timezone == "Asia/Shanghai"
    assert settings.database_url is None


def test_settings_do_not_show_the_password_of_the_database() -> None:
    assert "C4nary" not in repr(Settings(database_url="postgresql://u:C4nary@h/db"))


def test_settings_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(FrozenInstanceError):
        settings.workers = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:50051", "127.0.0.1", 50051),
        ("localhost:0", "localhost", 0),
        ("[::1]:65535", "::1", 65535),
        ("metering.internal:1", "metering.internal", 1),
    ],
)
def test_an_address_is_a_host_and_a_port(address: str, host: str, port: int) -> None:
    assert split_address(address) == (host, port)


@pytest.mark.parametrize(
    "address",
    ["", ":", "50051", ":50051", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "h:-1", "h:65536", "h:1.5", "h: 1", "h:²"],
)
@pytest.mark.parametrize("name", ["listen", "metrics_listen"])
def test_what_is_no_address_is_refused(name: str, address: str) -> None:
    wrong: dict[str, Any] = {name: address, "insecure_listen": True}
    with pytest.raises(ValueError, match=r"is not an address; write it like 127\.0\.0\.1:50051"):
        Settings(**wrong)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.9.10:1", "[::1]:1", "localhost:1"])
def test_this_machine_alone_is_always_served(address: str) -> None:
    assert Settings(listen=address).listen == address


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.7:1", "metering.internal:1", "localhost.evil:1"])
def test_other_machines_are_served_only_if_that_is_said_in_so_many_words(address: str) -> None:
    with pytest.raises(ValueError, match=r"can be reached from other machines.*--insecure-listen"):
        Settings(listen=address)
    assert Settings(listen=address, insecure_listen=True).listen == address


def test_metrics_are_served_to_other_machines_only_if_that_is_said_in_so_many_words() -> None:
    with pytest.raises(ValueError, match=r"metrics_listen: 0\.0\.0\.0 can be reached.*--insecure-metrics-listen"):
        Settings(metrics_listen="0.0.0.0:9464")
    either: list[dict[str, Any]] = [{"insecure_metrics_listen": True}, {"insecure_listen": True}]
    for told in either:
        assert Settings(metrics_listen="0.0.0.0:9464", **told).metrics_listen == "0.0.0.0:9464"


@pytest.mark.parametrize("name", ["workers", "queue_calls", "batch_calls", "committers"])
@pytest.mark.parametrize("number", [0, -1])
def test_there_is_at_least_one_of_everything(name: str, number: int) -> None:
    wrong: dict[str, Any] = {name: number}
    with pytest.raises(ValueError, match=f"{name}: {number} is less than 1"):
        Settings(**wrong)


@pytest.mark.parametrize("zone", ["", "Shanghai", "UTC+8", "../etc/passwd"])
def test_an_unknown_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="is not a time zone"):
        Settings(billing_timezone=zone)


TLS: dict[str, Any] = {"server_cert": Path("s.pem"), "server_key": Path("s.key")}
MUTUAL: dict[str, Any] = {**TLS, "client_ca": Path("ca.pem"), "roles_file": Path("roles.toml")}
TOKENS: dict[str, Any] = {"jwks_file": Path("jwks.json"), "token_issuer": "https://issuer.example"}


@pytest.mark.parametrize("protection", [MUTUAL, {**TLS, **TOKENS}])
def test_other_machines_are_served_over_tls_if_they_are_asked_who_they_are(protection: dict[str, Any]) -> None:
    assert Settings(listen="0.0.0.0:1", **protection).listen == "0.0.0.0:1"


@pytest.mark.parametrize(
    ("protection", "missing"), [(TLS, "nobody is asked who they are"), (TOKENS, "nothing is encrypted")]
)
def test_half_a_protection_is_none(protection: dict[str, Any], missing: str) -> None:
    with pytest.raises(ValueError, match=rf"{missing}.*--insecure-listen"):
        Settings(listen="0.0.0.0:1", **protection)
    assert Settings(listen="127.0.0.1:1", **protection).listen == "127.0.0.1:1"


@pytest.mark.parametrize("left_out", [*MUTUAL, *TOKENS])
def test_what_belongs_together_is_set_together(left_out: str) -> None:
    for whole in (MUTUAL, {**TLS, **TOKENS}):
        if left_out in whole:
            with pytest.raises(ValueError, match=f"set --{left_out.replace('_', '-')}"):
                Settings(**{name: value for name, value in whole.items() if name != left_out})


def test_callers_are_told_in_one_way() -> None:
    with pytest.raises(ValueError, match="by their certificates or by tokens, not by both"):
        Settings(**MUTUAL, **TOKENS)


@pytest.mark.parametrize(
    ("name", "value"),
    [("audit_share", 0.0), ("audit_share", 1.1), ("audit_share", -0.1), ("audit_interval_h", -1.0)],
)
def test_an_audit_that_cannot_be_made_is_refused(name: str, value: float) -> None:
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"{name}: .*; give"):
        Settings(**wrong)


def test_the_audit_can_be_turned_off_and_take_all_the_time() -> None:
    assert Settings(audit_interval_h=0.0, audit_share=1.0).audit_share == 1
