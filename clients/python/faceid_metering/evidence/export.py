"""Exports of the calls on a bill. One that was interrupted goes on where it was, if it is a CSV."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from faceid_metering.evidence.files import COLUMNS, Write, csv_writer, part_of, write_calls
from faceid_metering.evidence.verification import ListedCall

if TYPE_CHECKING:
    from io import TextIOWrapper

    from faceid.metering.v1.metering_service_pb2 import ListCallsResponse

_PAGES_PER_NOTE = 10
"""After so many pages it is made sure that they are on disk, and noted where the export is."""


@dataclass
class Place:
    """Where an export is: after its last whole page."""

    account_id: str
    month: str
    page_token: str = ""
    """Of that page; empty: there is none."""
    calls: int = 0
    """How many are in the file."""
    size: int = 0
    """Of the file, in bytes."""


class Export:
    """An export under way: `add` the pages that `list_call_pages` yields from `place.page_token` on."""

    def __init__(self, place: Place, write: Write) -> None:
        self.place = place
        self._write = write

    def add(self, page: "ListCallsResponse") -> None:
        """Append the calls of a page to the file."""
        self._write(map(ListedCall.of, page.calls))
        size = self._written()
        self.place.page_token, self.place.size = page.next_page_token, size
        self.place.calls += len(page.calls)

    def _written(self) -> int:
        """Return how large the file is with all that was written."""
        return 0


class _CsvExport(Export):
    """Notes from time to time where it is."""

    def __init__(self, place: Place, file: "TextIOWrapper", note: Path) -> None:
        super().__init__(place, csv_writer(file).writerows)
        self._file = file
        self._note = note
        self._pages = 0

    def add(self, page: "ListCallsResponse") -> None:
        super().add(page)
        self._pages += 1
        if self._pages % _PAGES_PER_NOTE == 0:
            self.keep()

    def keep(self) -> None:
        """Note where the export is, once all that stands before is on disk."""
        os.fsync(self._file.fileno())
        new = self._note.with_name(f"{self._note.name}.new")
        new.write_text(json.dumps(asdict(self.place)), encoding="ascii")
        new.replace(self._note)

    def _written(self) -> int:
        self._file.flush()
        return os.fstat(self._file.fileno()).st_size


@contextmanager
def export_calls(path: Path, account_id: str, month: str) -> Iterator[Export]:
    """Return an export of the calls on a bill to a file, which has its name only once all are in it, and on disk.

    Until then it is `NAME.part`. If a CSV is interrupted in whatever way, `NAME.part.place` tells where it is, and the
    next export of the same calls to the same name goes on there. Parquet begins anew: such a file can be read only once
    it is finished.

    Raises:
        CallFileError: The name ends neither in .csv nor in .parquet, or pyarrow is missing.
        OSError: It cannot be written.
    """
    if path.suffix.lower() != ".csv":
        with write_calls(path) as write:
            yield Export(Place(account_id, month), write)
        return
    part = part_of(path)
    note = part.with_name(f"{part.name}.place")
    place = _place(part, note, account_id, month)
    with part.open("r+" if place.size else "w", encoding="ascii", newline="") as file:
        if place.size:
            file.seek(place.size)
            file.truncate()
        else:
            csv_writer(file).writerow(COLUMNS)
        export = _CsvExport(place, file, note)
        try:
            yield export
        except BaseException:
            export.keep()
            raise
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    note.unlink(missing_ok=True)


def _place(part: Path, note: Path, account_id: str, month: str) -> Place:
    """Return where an interrupted export is; the beginning if there is none of these calls, or it is damaged."""
    try:
        place = Place(**json.loads(note.read_text(encoding="ascii")))
        if (place.account_id, place.month) == (account_id, month) and part.stat().st_size >= place.size:
            return place
    except (OSError, ValueError, TypeError):
        pass
    return Place(account_id, month)
