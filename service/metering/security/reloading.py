"""Files that are read again when they change, without a restart."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)

log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int, int], ...]


class BrokenFileError(Exception):
    """A file is not what it should be; the message says which one, what is wrong, and never what stands in it."""


class Reloaded(Generic[T_co]):
    """What some files say together. While they cannot be used, it stays what they said before.

    Files may be replaced one after the other: as long as they do not fit together, they are broken like any others.
    """

    def __init__(self, what: str, paths: Sequence[Path], parse: Callable[..., T_co]) -> None:
        """Read them.

        Args:
            what: what to call them in the log.
            paths: the files.
            parse: makes something of their contents, in the same order; raises ValueError that says what is wrong.

        Raises:
            BrokenFileError: they cannot be used.

        """
        self.what = what
        self._paths = tuple(paths)
        self._parse = parse
        self._stamp, self.value = self._read()
        self._broken_as: str | None = None

    @property
    def broken(self) -> bool:
        """The files have changed to something that cannot be used."""
        return self._broken_as is not None

    def look(self) -> None:
        """Read the files again if they have changed. Says once what is wrong with them, and when they are right again.

        Costs a stat of each file. Whatever happens, there is a value.
        """
        try:
            if _stamp(self._paths) == self._stamp and not self.broken:
                return
            stamp, value = self._read()
        except (BrokenFileError, OSError) as error:
            if str(error) != self._broken_as:
                log.error("the %s changed and cannot be used; the former stays in force. %s", self.what, error)  # noqa: TRY400
            self._broken_as = str(error)
            return
        if stamp != self._stamp or self.broken:
            log.info("the %s changed: now in force", self.what)
        self._stamp, self.value, self._broken_as = stamp, value, None

    def _read(self) -> tuple[Stamp, T_co]:
        paths = ", ".join(map(str, self._paths))
        try:
            # First the stamp: a file that changes while it is read is read again the next time.
            stamp = _stamp(self._paths)
            contents = [path.read_bytes() for path in self._paths]
        except OSError as error:
            msg = f"the {self.what} cannot be read: {error}"
            raise BrokenFileError(msg) from error
        try:
            return stamp, self._parse(*contents)
        except ValueError as error:
            msg = f"{paths}: {error}"
            raise BrokenFileError(msg) from error


def _stamp(paths: Sequence[Path]) -> Stamp:
    return tuple((found.st_mtime_ns, found.st_size, found.st_ino) for found in (path.stat() for path in paths))
