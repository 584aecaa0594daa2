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

_CHUNK_OVERHEAD_BYTES = 100
_BUSY_S = 5.0
_SLICE_BYTES = 4_000_000
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
        """Make a file in a directory, which is made if it isn't there."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._bytes_max = bytes_max
        self._path = directory / f"{uuid4().hex}.spool"
        self._db = _open(self._path, fsync=fsync, create=True)
        self.calls = 0
        self.bytes = 0

    def put(self, batches: Iterable[Batch]) -> bool:
        """Store batches, all or none; returns whether there was room for them."""
        batches = list(batches)
        size = sum(map(_size, batches))
        if self.bytes + size > self._bytes_max:
            return False
        with self._db:
            self._db.executemany(_INSERT, map(_row, batches))
        self.bytes += size
        self.calls += sum(batch.calls for batch in batches)
        return True

    def drop_oldest(self, batch: Batch) -> int:
        """Make room for a batch; returns how many calls were dropped."""
        ids, freed = [], 0
        for chunk in _batches(self._db, 0):
            if self.bytes - freed + _size(batch) <= self._bytes_max:
                break
            ids.append(chunk.chunk_ids[0])
            freed += _size(chunk)
        return self._delete(ids)

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
        self._delete(batch.chunk_ids)
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
                if batches and size + _size(batch) > _SLICE_BYTES:
                    break
                batches.append(batch)
                size += _size(batch)
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

    def _delete(self, ids: Iterable[int]) -> int:
        """Remove chunks that are there still: a bound may have been faster. Returns how many calls were in them."""
        deleted = 0
        with self._db:
            for chunk_id in ids:
                row = self._db.execute("SELECT calls, length(body) FROM chunks WHERE id = ?", (chunk_id,)).fetchone()
                if row is not None:
                    self._db.execute("DELETE FROM chunks WHERE id = ?", (chunk_id,))
                    deleted += row[0]
                    self.bytes -= row[1] + _CHUNK_OVERHEAD_BYTES
        self.calls -= deleted
        return deleted


def _open(path: Path, *, fsync: bool, create: bool) -> sqlite3.Connection:
    """Open a file and lock it, until it is closed; raises sqlite3.OperationalError if another process has it."""
    mode = "rwc" if create else "rw"
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", timeout=_BUSY_S if create else 0, uri=True, check_same_thread=False
    )
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
        db.execute(f"PRAGMA journal_size_limit = {_SLICE_BYTES}")
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


def _size(batch: Batch) -> int:
    return len(batch.body) + _CHUNK_OVERHEAD_BYTES


def _unlink(path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
