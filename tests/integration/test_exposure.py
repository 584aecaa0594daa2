"""What can be seen from outside: ports, and nothing that is secret."""

import asyncio
import ipaddress
import stat
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.conftest import ServiceProcesses
from tests.support.command import metering
from tests.support.postgres import postmaster_pid
from tests.support.processes import ServiceProcess
from tests.support.waiting import until

if TYPE_CHECKING:
    import asyncpg

LISTENING = "0A"
CANARY = "C4nary-pa55word"


def descendants(pid: int) -> set[int]:
    children = {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return {pid}.union(*(descendants(child) for child in children))


def listening(pids: set[int]) -> set[tuple[str, int]]:
    """Return the addresses that processes listen on, TCP and UDP."""
    sockets = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").iterdir():
            try:
                name = str(file.readlink())
            except FileNotFoundError:  # closed meanwhile
                continue
            if name.startswith("socket:["):
                sockets.add(name.removeprefix("socket:[").removesuffix("]"))
    found = set()
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        table = Path(f"/proc/net/{protocol}")
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if fields[9] in sockets and (fields[3] == LISTENING or protocol.startswith("udp")):
                address, port = fields[1].split(":")
                words = (bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8))
                listened = ipaddress.ip_address(b"".join(words))
                mapped = listened.ipv4_mapped if isinstance(listened, ipaddress.IPv6Address) else None
                found.add((str(mapped or listened), int(port, 16)))
    return found


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_nothing_listens_but_the_two_addresses_and_a_closed_socket(own_data_dir: Path, workers: str) -> None:
    async with ServiceProcess(None, "--data-dir", str(own_data_dir), "--workers", workers) as service:
        await service.activate("acme")
        await service.record(service.call("acme"))
        postgres = postmaster_pid(own_data_dir)
        pids = descendants(service.process.pid) | descendants(postgres)
        assert len(pids) > int(workers) + 4
        addresses = {service.target, urlsplit(service.http).netloc}
        assert {f"{host}:{port}" for host, port in listening(pids)} == addresses
        assert stat.S_IMODE((own_data_dir / "postgres").stat().st_mode) == 0o700
        assert (own_data_dir / "postgres" / ".s.PGSQL.5432").is_socket()
        await service.terminate()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_password_of_the_database_is_nowhere_to_be_seen(
    processes: ServiceProcesses, workers: str, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    processes.database_url = processes.database_url.replace("postgres@", f"postgres:{CANARY}@", 1)
    service = await processes.start("--workers", workers)
    await service.activate("acme")
    await service.record(service.call("acme"))
    for pid in await service.worker_pids():
        assert CANARY not in Path(f"/proc/{pid}/cmdline").read_text()
    for _ in range(3):  # so that there are errors to be logged
        await db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    await until(lambda: any("service statuses grow old" in line for line in service.output))
    for path in ("/metrics", "/readyz", "/livez"):
        assert CANARY not in (await service.get(path))[1]
    await service.until_ready()
    await service.terminate()
    said = "".join(service.output)
    assert "FaceID Metering" in said
    assert CANARY not in said


URLS = {
    "nobody is there": f"postgresql://metering:{CANARY}@127.0.0.1:1/metering",
    "no such host": f"postgresql://metering:{CANARY}@no-such-host.invalid/metering",
    "a slash in the password": f"postgresql://metering:{CANARY[:3]}/{CANARY[3:]}@127.0.0.1:1/metering",
    "no port": f"postgresql://metering:{CANARY}@127.0.0.1:x/metering",
    "a large port": f"postgresql://metering:{CANARY}@127.0.0.1:99999/metering",
    "half an address": f"postgresql://metering:{CANARY}@[::1/metering",
    "no scheme": f"metering:{CANARY}@127.0.0.1/metering",
    "words": f"host=127.0.0.1 port=1 user=metering password={CANARY}",
    "a parameter": f"postgresql://metering@127.0.0.1:1/metering?password={CANARY}",
    "a wrong parameter": f"postgresql://metering@127.0.0.1:1/metering?password={CANARY}&sslmode=wrong",
}


@pytest.mark.parametrize("url", URLS)
async def test_no_error_repeats_the_password_of_the_database(url: str) -> None:
    commands = (metering(command, METERING_DATABASE_URL=URLS[url]) for command in ("migrate", "acts"))
    for code, said in await asyncio.gather(*commands):
        assert (code, "METERING_DATABASE_URL" in said, "Traceback" in said) == (1, True, False), said
        assert CANARY not in said
        assert CANARY[3:] not in said


@pytest.mark.parametrize("url", ["a slash in the password", "no port", "half an address"])
async def test_a_url_that_is_none_is_told_at_once(url: str) -> None:
    async with asyncio.timeout(20):
        code, said = await metering(
            *("serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"), METERING_DATABASE_URL=URLS[url]
        )
    assert (code, "METERING_DATABASE_URL is not understood" in said, CANARY[3:] in said) == (1, True, False), said
