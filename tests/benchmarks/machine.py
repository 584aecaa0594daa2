"""What the numbers of a benchmark depend on besides the code: the machine, the versions, the settings."""

import asyncio
import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import asyncpg

_PACKAGES = ("grpcio", "protobuf", "asyncpg", "uvloop")
_SETTINGS = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "wal_compression",
    "wal_sync_method",
    "wal_buffers",
    "max_wal_size",
    "min_wal_size",
    "checkpoint_timeout",
    "commit_delay",
    "shared_buffers",
)


@dataclass(frozen=True)
class Machine:
    """Where a benchmark ran."""

    processor: str
    cores: int
    memory_gb: float
    system: str
    file_system: str
    """Of the database."""
    versions: dict[str, str]
    postgres_settings: dict[str, str]


def describe(database_url: str, data_dir: Path) -> Machine:
    """Return what can be found out about this machine."""
    settings = asyncio.run(_settings(database_url))
    return Machine(
        processor=_processor() or platform.processor() or platform.machine(),
        cores=os.cpu_count() or 0,
        memory_gb=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        system=f"{platform.system()} {platform.release()}",
        file_system=_file_system(data_dir.resolve()),
        versions={
            "Python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
            "PostgreSQL": settings["server_version"],
        },
        postgres_settings={name: settings[name] for name in _SETTINGS},
    )


async def _settings(database_url: str) -> dict[str, str]:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            "SELECT name, current_setting(name) AS value FROM pg_settings WHERE name = ANY ($1)",
            ["server_version", *_SETTINGS],
        )
    finally:
        await connection.close()
    return {row["name"]: row["value"] for row in rows}


def _processor() -> str:
    """Return the processor's name; empty where the system does not tell it in this way."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _file_system(path: Path) -> str:
    """Return the kind of file system that a path is on: on a tmpfs, fsync costs nothing and keeps nothing."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    kinds = {Path(line.split()[1]): line.split()[2] for line in mounts.read_text().splitlines()}
    return next((kinds[each] for each in (path, *path.parents) if each in kinds), "unknown")
