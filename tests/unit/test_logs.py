"""What is logged has no secrets in it."""

import logging

import pytest

from metering.logs import redacted, secrets_in, set_up_logging

URLS = {
    "postgresql://metering:C4nary-pw@db:5432/metering": "C4nary-pw",
    "postgresql://metering:C4n%40ry%2Fpw@db/metering": "C4n@ry/pw",
    "postgresql://metering:C4n@ry/pw@db/metering": "C4n@ry/pw",
    "postgresql://metering@db/metering?password=C4nary%2Bpw": "C4nary+pw",
    "postgresql://metering:C4nary-pw@[::1/metering": "C4nary-pw",
    "host=db password=C4nary-pw": "C4nary-pw",
    "postgresql://metering:C4nary-pw@db1:5432,db2:5432/metering": "C4nary-pw",
}


@pytest.mark.parametrize("url", URLS)
def test_the_password_of_a_url_is_hidden_as_it_stands_there_and_as_it_is_meant(url: str) -> None:
    secrets = secrets_in(url)
    for text in (f"cannot connect to {url}: no", f"password {URLS[url]!r} was not right"):
        clean = redacted(text, secrets)
        assert URLS[url] not in clean
        assert "C4n" not in clean
        assert "***" in clean


def test_urls_with_passwords_are_hidden_even_if_nobody_said_so() -> None:
    assert redacted("at postgres://u:pw@h/db, and http://x/y", ()) == "at postgres://u:***@h/db, and http://x/y"


@pytest.mark.parametrize("url", [None, "", "postgresql://postgres@/metering?host=/tmp/a:b@c&port=5432"])
def test_where_there_is_no_password_nothing_is_hidden(url: str | None) -> None:
    assert secrets_in(url) == ()


def test_a_traceback_is_logged_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        set_up_logging("test", secrets_in("postgresql://u:C4nary-pw@h/db"))
        try:
            int("C4nary-pw")
        except ValueError:
            logging.getLogger("x").exception("failed with %s", "postgresql://u:C4nary-pw@h/db")
    finally:
        root.handlers[:], root.level = handlers, level
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "'***'" in said
    assert "C4nary" not in said
