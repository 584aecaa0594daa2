"""The machine with the database is lost, or somebody has made a mistake: base backup and WAL bring the books back."""

import asyncio
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from faceid.metering.v1 import resources_pb2 as pb
from metering import embedded_postgres
from metering.store.schema import migrate
from tests.conftest import execute
from tests.support.command import metering
from tests.support.postgres import kill_server
from tests.support.postgres_copies import base_backup, give
from tests.support.service import FakeClock, Service

pytestmark = pytest.mark.timeout(180)  # a server that is restarted, a copy of it, and a recovery

RECOVERY = """
restore_command = 'cp {archive}/%f %p'
recovery_target_action = promote
"""


@dataclass(frozen=True)
class Lost:
    """What is left of a server that is gone: a base backup, the archived WAL, and what its books said."""

    backup: Path
    archive: Path
    calls_at_restore_point: int
    calls_at_end: int
    bill: pb.Bill
    later_call: pb.CallRecord

    def restore(self, data_dir: Path, *targets: str) -> None:
        """Lay out a data directory as docs/operations.md, "Backup and restore", says it."""
        data_dir.mkdir()
        subprocess.run(["cp", "-a", self.backup, data_dir / "postgres"], check=True)
        settings = RECOVERY.format(archive=self.archive) + "\n".join(targets) + "\n"
        with (data_dir / "postgres" / "postgresql.auto.conf").open("a") as file:
            file.write(settings)
        signal = data_dir / "postgres" / "recovery.signal"
        signal.touch()
        shutil.chown(signal, self.backup.stat().st_uid, self.backup.stat().st_gid)


@pytest.fixture
async def lost(own_data_dir: Path, clock: FakeClock) -> Lost:
    """Return what is left of a server that was recorded on, backed up meanwhile, and is gone."""
    data_dir = own_data_dir / "first"
    with await asyncio.to_thread(embedded_postgres.start, data_dir) as postgres:
        archive = give(own_data_dir / "archive", data_dir / "postgres")
        command = f"test ! -f {archive}/%f && cp %p {archive}/%f"
        await execute(
            postgres.url,
            "ALTER SYSTEM SET archive_mode = on",
            f"ALTER SYSTEM SET archive_command = '{command}'",
        )
    with await asyncio.to_thread(embedded_postgres.start, data_dir) as postgres:
        await migrate(postgres.url)
        async with Service(postgres.url, clock) as service:
            await service.activate("acme")
            await service.record_batch(service.call("acme", at=clock.now().replace(month=10)) for _ in range(300))
            backup = await asyncio.to_thread(base_backup, postgres, own_data_dir / "backup")
            await service.record_batch(service.call("acme", at=clock.now().replace(month=10)) for _ in range(200))
            await service.record_batch(service.call("acme") for _ in range(50))
            await service.close_month("2026-10")
            await service.pay("acme", "1")
            await service.deduct("acme", "2026-10")
            bill = await service.bill("acme", "2026-10")
            await execute(postgres.url, "SELECT pg_create_restore_point('before_the_mistake')")
            later_call = service.call("acme")
            await service.record(later_call)
            await service.record_batch(service.call("acme") for _ in range(9))
            connection = await asyncpg.connect(postgres.url)
            wal = await connection.fetchval("SELECT pg_walfile_name(pg_switch_wal())")
            async with asyncio.timeout(30):
                while not (archive / wal).exists():
                    await asyncio.sleep(0.01)
            await connection.close()
        kill_server(data_dir)
    shutil.rmtree(data_dir)
    return Lost(backup, archive, 550, 560, bill, later_call)


@pytest.fixture
def restored_dir(own_data_dir: Path) -> Path:
    """Return where to restore it."""
    return own_data_dir / "restored"


async def test_books_restored_to_a_moment_are_those_of_that_moment_and_go_on(
    lost: Lost, restored_dir: Path, clock: FakeClock
) -> None:
    lost.restore(restored_dir, "recovery_target_name = 'before_the_mistake'")
    with await asyncio.to_thread(embedded_postgres.start, restored_dir) as postgres:
        code, said = await metering("audit", METERING_DATABASE_URL=postgres.url)
        assert (code, "the books are right" in said) == (0, True), said
        assert f"{lost.calls_at_restore_point} recorded calls = 500 billed" in said
        async with Service(postgres.url, clock) as service:
            assert await service.bill("acme", "2026-10") == lost.bill
            # Acknowledged after that moment, therefore gone; who still has it sends it again, and it counts.
            assert not (await service.record(lost.later_call)).duplicate
            assert (await service.usage("acme", "2026-11")).total_calls == 51
            await service.pay("acme", "100")
            assert (await service.bill("acme", "2026-10")).state == pb.BILL_STATE_PAID


async def test_books_restored_to_the_end_have_every_acknowledged_call(
    lost: Lost, restored_dir: Path, clock: FakeClock
) -> None:
    lost.restore(restored_dir)
    with await asyncio.to_thread(embedded_postgres.start, restored_dir) as postgres:
        code, said = await metering("audit", METERING_DATABASE_URL=postgres.url)
        assert (code, "the books are right" in said) == (0, True), said
        assert f"{lost.calls_at_end} recorded calls = 500 billed" in said
        async with Service(postgres.url, clock) as service:
            assert (await service.record(lost.later_call)).duplicate
