"""The embedded PostgreSQL: real servers, really killed."""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from metering import embedded_postgres
from metering.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError
from tests.support.postgres import kill_server, postmaster_pid

HOLD = """
import sys
from pathlib import Path
from metering import embedded_postgres
with embedded_postgres.start(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # Not pytest's tmp_path: it closes the directories above to the user that PostgreSQL runs as when we are root.
    with tempfile.TemporaryDirectory(prefix="metering-") as directory:
        yield Path(directory, "data")


@pytest.fixture
def other_user(data_dir: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Another process that uses the data directory until its standard input is closed."""
    command = [sys.executable, "-c", HOLD, str(data_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.communicate()


async def query(postgres: EmbeddedPostgres, sql: str) -> object:
    connection = await asyncpg.connect(postgres.url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def is_down(data_dir: Path) -> bool:
    return not (data_dir / "postgres" / "postmaster.pid").exists()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("jit", "off"),
        ("max_wal_size", "2GB"),
        ("max_connections", "100"),
        ("TimeZone", "UTC"),
        ("listen_addresses", ""),
        ("data_checksums", "on"),
    ],
)
async def test_a_setting_is_in_force(shared: EmbeddedPostgres, setting: str, value: str) -> None:
    assert await query(shared, f"SHOW {setting}") == value


@pytest.fixture(scope="module")
def shared() -> Iterator[EmbeddedPostgres]:
    """One server for the tests that only look."""
    with tempfile.TemporaryDirectory(prefix="metering-") as directory, embedded_postgres.start(Path(directory)) as it:
        yield it


async def test_every_setting_of_our_file_was_understood(shared: EmbeddedPostgres) -> None:
    bad = "SELECT count(*) FROM pg_file_settings WHERE error IS NOT NULL"
    assert await query(shared, bad) == 0


async def test_the_url_leads_to_a_database_of_our_own(shared: EmbeddedPostgres) -> None:
    assert await query(shared, "SELECT current_database()") == "metering"


async def test_the_url_works_with_sqlalchemy(shared: EmbeddedPostgres) -> None:
    engine = create_async_engine(shared.url.replace("postgresql:", "postgresql+asyncpg:"))
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT current_database()")) == "metering"
    await engine.dispose()


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(shared: EmbeddedPostgres) -> None:
    pid = postmaster_pid(shared.data_dir)
    assert os.getsid(pid) == pid


async def test_data_survive_a_stop_and_a_start(data_dir: Path) -> None:
    with embedded_postgres.start(data_dir) as postgres:
        await query(postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert is_down(data_dir)
    with embedded_postgres.start(data_dir) as postgres:
        assert await query(postgres, "SELECT answer FROM kept") == 42


async def test_alter_system_wins_over_our_settings(data_dir: Path) -> None:
    with embedded_postgres.start(data_dir) as postgres:
        await query(postgres, "ALTER SYSTEM SET max_wal_size = '3GB'")
    with embedded_postgres.start(data_dir) as postgres:
        assert await query(postgres, "SHOW max_wal_size") == "3GB"


async def test_a_server_whose_starter_was_killed_is_attached_to_and_stopped(
    data_dir: Path, other_user: "subprocess.Popen[bytes]"
) -> None:
    other_user.kill()
    other_user.wait()
    left_behind = postmaster_pid(data_dir)
    with embedded_postgres.start(data_dir) as postgres:
        assert not postgres.started_by_us
        assert postmaster_pid(data_dir) == left_behind
        assert await query(postgres, "SELECT 1") == 1
    assert is_down(data_dir)


@pytest.mark.usefixtures("other_user")
async def test_a_server_that_another_process_uses_is_left_running(data_dir: Path) -> None:
    with embedded_postgres.start(data_dir) as postgres:
        assert not postgres.started_by_us
    assert await query(postgres, "SELECT 1") == 1


async def test_the_last_process_to_leave_stops_the_server(
    data_dir: Path, other_user: "subprocess.Popen[bytes]"
) -> None:
    with embedded_postgres.start(data_dir) as postgres:
        other_user.communicate()
        assert other_user.returncode == 0
        assert await query(postgres, "SELECT 1") == 1
    assert is_down(data_dir)


async def test_a_crashed_server_recovers_what_was_committed(
    data_dir: Path, other_user: "subprocess.Popen[bytes]"
) -> None:
    with embedded_postgres.start(data_dir) as postgres:
        await query(postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
    other_user.kill()
    other_user.wait()
    kill_server(data_dir)
    with embedded_postgres.start(data_dir) as recovered:
        assert recovered.started_by_us
        assert await query(recovered, "SELECT answer FROM kept") == 42


async def test_a_start_waits_for_the_orphans_of_a_crashed_server(
    data_dir: Path, other_user: "subprocess.Popen[bytes]"
) -> None:
    with embedded_postgres.start(data_dir) as postgres:
        connection = await asyncpg.connect(postgres.url)
        busy = asyncio.create_task(connection.execute("SELECT count(*) FROM generate_series(1, 5_000_000)"))
        await asyncio.sleep(0.2)
    other_user.kill()
    other_user.wait()
    kill_server(data_dir)
    with embedded_postgres.start(data_dir) as recovered:
        assert await query(recovered, "SELECT 1") == 1
    with contextlib.suppress(asyncpg.PostgresError, OSError):
        await busy
    connection.terminate()


@pytest.fixture
def some_program() -> Iterator["subprocess.Popen[bytes]"]:
    """A program that has nothing to do with PostgreSQL, run by the user that PostgreSQL would run as."""
    user = embedded_postgres.SYSTEM_USER if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "60"], user=user) as process:
        yield process
        process.kill()


@pytest.mark.usefixtures("shared")  # some_program needs the user, who is made with the first server
async def test_a_stale_pid_that_is_some_other_programs_by_now_is_not_taken_for_the_server(
    data_dir: Path, some_program: "subprocess.Popen[bytes]"
) -> None:
    pid_file = data_dir / "postgres" / "postmaster.pid"
    with embedded_postgres.start(data_dir):
        lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(some_program.pid), *lines[1:]]) + "\n")
    with embedded_postgres.start(data_dir) as postgres:
        assert postgres.started_by_us
        assert await query(postgres, "SELECT 1") == 1
    assert some_program.poll() is None


def test_an_empty_pid_file_is_reported_in_the_words_of_postgresql(data_dir: Path) -> None:
    with embedded_postgres.start(data_dir):
        pass
    (data_dir / "postgres" / "postmaster.pid").write_text("")
    with pytest.raises(EmbeddedPostgresError, match="is empty"):
        embedded_postgres.start(data_dir)


async def test_an_interrupted_first_start_is_begun_anew(data_dir: Path) -> None:
    unfinished = data_dir / "postgres.new"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    with embedded_postgres.start(data_dir) as postgres:
        assert await query(postgres, "SELECT 1") == 1


@pytest.mark.parametrize("name", ["a" * 100, "with space, comma and 'quote'"])
async def test_any_path_will_do_as_data_directory(data_dir: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(data_dir.parent))
    with embedded_postgres.start(data_dir / name) as postgres:
        assert await query(postgres, "SELECT current_database()") == "metering"


def test_data_of_another_major_version_are_left_alone(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedPostgresError, match=r"made by PostgreSQL 16.*METERING_DATABASE_URL"):
        embedded_postgres.start(data_dir)


def test_a_server_that_does_not_start_is_reported_with_the_end_of_its_log(data_dir: Path) -> None:
    with embedded_postgres.start(data_dir):
        pass
    with (data_dir / "postgres" / "postgresql.conf").open("a") as conf:
        conf.write("shared_buffers = 'plenty'\n")
    with pytest.raises(EmbeddedPostgresError, match='invalid value for parameter "shared_buffers": "plenty"'):
        embedded_postgres.start(data_dir)


def test_a_directory_that_cannot_be_made_is_reported_with_what_to_do(data_dir: Path) -> None:
    data_dir.write_text("a file where the directory should be")
    with pytest.raises(EmbeddedPostgresError, match="METERING_DATA_DIR"):
        embedded_postgres.start(data_dir)


def test_without_the_wheel_the_error_says_what_to_install(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EmbeddedPostgresError, match=r"faceid-metering\[embedded\].*METERING_DATABASE_URL"):
        embedded_postgres.start(data_dir)
