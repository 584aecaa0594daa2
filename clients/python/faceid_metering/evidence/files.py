"""Calls in files: CSV, or Parquet with the extra `parquet`. Which one, the name's ending says."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from faceid_metering.evidence.verification import ListedCall

if TYPE_CHECKING:
    from _csv import Writer
    from types import ModuleType

Write = Callable[[Iterable[ListedCall]], None]
"""Appends calls to a file."""

_ROWS_IN_GROUP = 50_000
"""Rows of a Parquet file that are compressed, and held in memory, together."""
COLUMNS = ListedCall._fields
"""The first line of a CSV."""
_NUMBERS = {name: kind is int for name, kind in ListedCall.__annotations__.items()}


class CallFileError(Exception):
    """A file of calls is not what it should be, or cannot be written like that."""


@contextmanager
def write_calls(path: Path) -> Iterator[Write]:
    """Return a function that appends calls to a file, which has its name only once all of them are in it, and on disk.

    Until then it is `NAME.part`. If the block is left by an exception, that is removed; if the process is killed, it
    stays, and the next one that writes the same file begins anew.

    Raises:
        CallFileError: The name ends neither in .csv nor in .parquet, or pyarrow is missing.
        OSError: It cannot be written.
    """
    opened = _format(path, csv=_write_csv, parquet=_write_parquet)
    part = part_of(path)
    try:
        with opened(part) as write:
            yield write
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def part_of(path: Path) -> Path:
    """Return where a file is until it is complete."""
    return path.with_name(f"{path.name}.part")


def csv_writer(file: IO[str]) -> "Writer":
    """Return what writes lines of a CSV, the first one as well as those of calls."""
    return csv.writer(file, lineterminator="\n")


def read_calls(path: Path) -> Iterator[ListedCall]:
    """Yield the calls in a file, a few at a time.

    Raises:
        CallFileError: It is none of ours, or damaged; says where.
        OSError: It cannot be read.
    """
    calls: Iterator[ListedCall] = _format(path, csv=_read_csv, parquet=_read_parquet)(path)
    return calls


def _format(path: Path, **formats: Callable[[Path], Any]) -> Callable[[Path], Any]:
    try:
        return formats[path.suffix.removeprefix(".").lower()]
    except KeyError:
        raise CallFileError(f"{path}: name it .csv or .parquet") from None


@contextmanager
def _write_csv(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="ascii", newline="") as file:
        writer = csv_writer(file)
        writer.writerow(COLUMNS)
        yield writer.writerows


def _read_csv(path: Path) -> Iterator[ListedCall]:
    with path.open(encoding="ascii", newline="") as file:
        rows = csv.reader(_whole_lines(path, file))
        try:
            if tuple(next(rows, ())) != COLUMNS:
                raise CallFileError(f"{path}: must begin with the line {','.join(COLUMNS)}")
            for day, call_id, occurred_us, account_id, api, result_code, month, recorded_us in rows:
                yield ListedCall(day, call_id, int(occurred_us), account_id, api, result_code, month, int(recorded_us))
        except (ValueError, csv.Error) as error:
            raise CallFileError(f"{path}, line {rows.line_num}: is not a call: {error}") from error


def _whole_lines(path: Path, file: Iterable[str]) -> Iterator[str]:
    for line in file:
        if not line.endswith("\n"):
            raise CallFileError(f"{path}: its last line was cut off")
        yield line


@contextmanager
def _write_parquet(path: Path) -> Iterator[Write]:
    arrow, parquet = _pyarrow()
    schema = arrow.schema([(name, arrow.int64() if number else arrow.string()) for name, number in _NUMBERS.items()])
    waiting: list[ListedCall] = []

    def write_group() -> None:
        columns = zip(*waiting, strict=True) if waiting else ([] for _ in COLUMNS)
        arrays = [arrow.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
        writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
        waiting.clear()

    def write(calls: Iterable[ListedCall]) -> None:
        waiting.extend(calls)
        if len(waiting) >= _ROWS_IN_GROUP:
            write_group()

    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        yield write
        write_group()


def _read_parquet(path: Path) -> Iterator[ListedCall]:
    arrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_IN_GROUP, columns=list(COLUMNS)):
                columns = [batch.column(name).to_pylist() for name in COLUMNS]
                yield from chain(map(ListedCall, *columns))
    except (arrow.ArrowInvalid, KeyError) as error:
        raise CallFileError(f"{path}: is not a Parquet file of calls: {error}") from error


def _pyarrow() -> "tuple[ModuleType, ModuleType]":
    try:
        import pyarrow  # noqa: ICN001, PLC0415 - an extra
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise CallFileError(
            "Parquet needs pyarrow: pip install 'faceid-metering[parquet]'; or name the file .csv"
        ) from error
    return pyarrow, pyarrow.parquet
