"""What clients send cannot make the log say what it does not."""

import logging
import re

import pytest

from metering.logs import set_up_logging

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
