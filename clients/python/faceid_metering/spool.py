"""Calls on disk: a SQLite file for each client, in a directory that several processes may share.

SQLite's own exclusive lock tells whose file is in use. It ends with the process, however that ends, and then another
client adopts the calls. To be adopted twice, or after they were delivered, does no harm: a call counts once.
"""

import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

log = logging.getLogger(__name__)

_BUSY_S = 5.0
_PAGE_BYTES = 4096
_SLICE_BYTES = 1_000_000
"""Of so much, calls are adopted at a time; a chunk that is larger is adopted alone."""
_LOG_PAGES = 500
"""So long may SQLite's write-ahead log become before it is written to the file itself."""
_LOG_BYTES_MAX = 8 * 1024 * 1024
"""What the log then takes at most: these pages, and one more transaction of at most 10,000 calls."""
_SHRINK_PAGES = 256

_SCHEMA = """
CREATE TABLE IF NOT EXISTS chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sender_id TEXT NOT NULL,
    first_number INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    stored_at REAL NOT NULL,
    body BLOB NOT NULL
)
"""
_INSERT = "INSERT INTO chunks (sender_id, first_number, calls, stored_at, body) VALUES (?, ?, ?, ?, ?)"
_SELECT = "SELECT id, sender_id, first_number, calls, stored_at, body FROM chunks WHERE id > ? ORDER BY id"


@dataclass(frozen=True, slots=True)
class Batch:
    """Calls that are sent together: encoded and joined, numbered by their sender without a gap."""

    sender_id: str
    first_number: int
    calls: int
    body: bytes
    stored_at: float = 0.0
    chunk_ids: tuple[int, ...] = ()
    """Where they stand in the spool, if they do."""


class SpoolFile:
    """The file of one client. For one thread; every method raises sqlite3.Error or OSError when the disk fails."""

    def __init__(self, directory: Path, bytes_max: int, *, fsync: bool) -> None:
        """Make a file in a directory, which is made if it isn't there.

        With its log it takes at most `bytes_max`, of which 8 MiB are the log's.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._pages_max = (bytes_max - _LOG_BYTES_MAX) // _PAGE_BYTES
        self._path = directory / f"{uuid4().hex}.spool"
        self._db = _open(self._path, fsync=fsync, create=True)
        self.calls = 0

    def bytes_used(self) -> int:
        """Return how much of the file is in use; it grows only when nothing of it is free."""
        return self._pages() * _PAGE_BYTES

    def put(self, batches: Iterable[Batch]) -> bool:
        """Store batches, all or none; returns whether there was room for them."""
        batches = list(batches)
        if not self._has_room_for(batches):
            return False
        with self._db:
            self._db.executemany(_INSERT, map(_row, batches))
        self.calls += sum(batch.calls for batch in batches)
        return True

    def drop_oldest(self, batch: Batch) -> int:
        """Make room for a batch; returns how many calls were dropped."""
        dropped = 0
        with self._db:
            for chunk in _batches(self._db, 0):
                if self._has_room_for([batch]):
                    break
                self._db.execute("DELETE FROM chunks WHERE id = ?", chunk.chunk_ids)
                dropped += chunk.calls
        self.calls -= dropped
        return dropped

    def next_batch(self, after_id: int, calls_max: int) -> Batch | None:
        """Return the chunks after one, as many as make a batch together."""
        chunks: list[Batch] = []
        calls = 0
        for chunk in _batches(self._db, after_id):
            if chunks and (
                calls + chunk.calls > calls_max
                or chunk.sender_id != chunks[0].sender_id
                or chunk.first_number != chunks[0].first_number + calls
            ):
                break
            chunks.append(chunk)
            calls += chunk.calls
        if not chunks:
            return None
        first = chunks[0]
        ids = tuple(chunk.chunk_ids[0] for chunk in chunks)
        body = b"".join(chunk.body for chunk in chunks)
        return Batch(first.sender_id, first.first_number, calls, body, first.stored_at, ids)

    def delete(self, batch: Batch) -> None:
        """Remove a batch that was delivered. When nothing is left, the disk is given back."""
        with self._db:
            for chunk_id in batch.chunk_ids:
                row = self._db.execute("SELECT calls FROM chunks WHERE id = ?", (chunk_id,)).fetchone()
                if row is not None:  # it may be gone: a bound was faster
                    self._db.execute("DELETE FROM chunks WHERE id = ?", (chunk_id,))
                    self.calls -= row[0]
        if not self.calls and self._db.execute("PRAGMA page_count").fetchone()[0] > _SHRINK_PAGES:
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def oldest(self) -> float | None:
        """Return when the oldest call was stored, in seconds since 1970; None: there is none."""
        row = self._db.execute("SELECT stored_at FROM chunks ORDER BY id LIMIT 1").fetchone()
        return None if row is None else float(row[0])

    def adopt(self) -> int:
        """Take over calls that a client which is gone has left, some at a time; returns how many."""
        for path in sorted(self._directory.glob("*.spool")):
            if path != self._path and (calls := self._adopt_from(path)) is not None:
                return calls
        return 0

    def close(self) -> None:
        """Close the file, and remove it if it is empty. Calls in it are going to be adopted."""
        if not self.calls:
            _unlink(self._path)
        self._db.close()

    def _adopt_from(self, path: Path) -> int | None:
        """Take over some calls of a file and remove it once it is empty; None: nothing is to be had of it."""
        try:
            orphan = _open(path, fsync=False, create=False)
        except sqlite3.OperationalError:  # locked, its client lives; or not set up yet; or another one was faster
            return None
        except sqlite3.DatabaseError as error:
            log.error("%s holds calls that cannot be read (%s); it is kept as %s.damaged", path, error, path.name)  # noqa: TRY400
            path.rename(path.with_name(f"{path.name}.damaged"))
            return None
        try:
            batches: list[Batch] = []
            size = 0
            for batch in _batches(orphan, 0):
                size += len(batch.body)
                if batches and size > _SLICE_BYTES:
                    break
                batches.append(batch)
            if not batches:
                _unlink(path)
                return None
            if not self.put(batches):  # later, when there is room
                return None
            with orphan:
                orphan.executemany("DELETE FROM chunks WHERE id = ?", [batch.chunk_ids for batch in batches])
            return sum(batch.calls for batch in batches)
        finally:
            orphan.close()

    def _has_room_for(self, batches: Iterable[Batch]) -> bool:
        return self._pages() + sum(map(_pages_of, batches)) <= self._pages_max

    def _pages(self) -> int:
        count, free = (self._db.execute(f"PRAGMA {what}_count").fetchone()[0] for what in ("page", "freelist"))
        return int(count - free)


def _open(path: Path, *, fsync: bool, create: bool) -> sqlite3.Connection:
    """Open a file and lock it, until it is closed; raises sqlite3.OperationalError if another process has it."""
    mode = "rwc" if create else "rw"
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", timeout=_BUSY_S if create else 0, uri=True, check_same_thread=False
    )
    try:
        db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
        db.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        if create:
            db.execute(_SCHEMA)
        else:
            db.execute("DELETE FROM chunks WHERE id < 0")  # a write, which takes the lock
            db.commit()
    except BaseException:
        db.close()
        raise
    return db


def _batches(db: sqlite3.Connection, after_id: int) -> Iterator[Batch]:
    for chunk_id, sender_id, first_number, calls, stored_at, body in db.execute(_SELECT, (after_id,)):
        yield Batch(sender_id, first_number, calls, body, stored_at, (chunk_id,))


def _row(batch: Batch) -> tuple[str, int, int, float, bytes]:
    return batch.sender_id, batch.first_number, batch.calls, batch.stored_at or time.time(), batch.body


def _pages_of(batch: Batch) -> int:
    """Return how many pages a batch takes at most: full ones, and those that are begun or divided for it."""
    return len(batch.body) // _PAGE_BYTES + 4


def _unlink(path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
