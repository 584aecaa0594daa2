"""What is logged has no secrets in it, and what clients send cannot make the log say what it does not."""

import logging
import re

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


LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ERROR +metering: ")
FORGED = "2026-01-01T00:00:00.000Z ERROR   metering: forged"


@pytest.fixture
def formatter(monkeypatch: pytest.MonkeyPatch) -> logging.Formatter:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    set_up_logging("metering")
    (handler,) = root.handlers
    assert handler.formatter is not None
    return handler.formatter


def record_of(argument: object, error: Exception | None = None) -> logging.LogRecord:
    error_info = (type(error), error, None) if error else None
    return logging.LogRecord("test", logging.ERROR, __file__, 1, "no account %s", (argument,), error_info)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\u2028", "\x85", "\x0b"])
def test_a_line_break_in_a_message_begins_no_line(formatter: logging.Formatter, end: str) -> None:
    (line,) = formatter.format(record_of(f"acme{end}{FORGED}")).splitlines()
    assert LINE.match(line)
    assert line.endswith("no account acme" + repr(end)[1:-1] + FORGED)


@pytest.mark.usefixtures("formatter")
def test_what_clients_can_have_grpc_log_at_will_is_not_logged() -> None:
    (handler,) = (each for each in logging.getLogger().handlers if type(each) is logging.StreamHandler)
    messages = (
        "ExecuteBatchError raised in core by servicer method [%s]",
        "Invalid encoding on %s",
        "Unexpected error in [%s]",
    )
    records = [logging.LogRecord("grpc._cython.cygrpc", logging.ERROR, "", 1, each, ("/x",), None) for each in messages]
    assert [bool(handler.filter(record)) for record in records] == [False, False, True]


def test_an_order_to_a_terminal_is_written_out(formatter: logging.Formatter) -> None:
    assert formatter.format(record_of("\x1b[2Jgone")).endswith("no account \\x1b[2Jgone")


@pytest.mark.parametrize("end", ["\n", "\u2028"])
def test_the_lines_of_a_traceback_are_indented(formatter: logging.Formatter, end: str) -> None:
    error = ValueError(f"no account acme{end}{FORGED}")
    first, *others = formatter.format(record_of("acme", error)).splitlines()
    assert LINE.match(first)
    assert others
    assert all(line.startswith("    ") for line in others)
    assert others[-1] == f"    {FORGED}"
