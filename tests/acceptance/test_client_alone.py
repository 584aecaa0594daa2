"""The package installed alone, without the server's dependencies: as a gateway has it."""

import asyncio
import re
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.support.service import FakeClock, Service

ROOT = Path(__file__).parents[2]
GATEWAY = """
import asyncio, importlib.util, sys
from datetime import UTC, datetime
import faceid_metering, faceid_metering.asgi, faceid_metering.grpc_server
from faceid_metering import MeteringClient, SyncMeteringClient
from faceid_metering.testing import FakeMetering

assert faceid_metering.__file__.startswith(sys.prefix), faceid_metering.__file__
for server_only in ("asyncpg", "prometheus_client", "opentelemetry", "click", "sqlalchemy"):
    assert importlib.util.find_spec(server_only) is None, server_only

def against_the_fake():
    with FakeMetering() as fake:
        fake.activate("acme")
        with SyncMeteringClient(fake.target) as metering:
            assert metering.is_active("acme")
            metering.record("acme", "DetectAuth")
            assert metering.flush(10)
        assert [recorded.call.api for recorded in fake.calls("acme")] == ["DetectAuth"]

async def against_the_service(target):
    async with MeteringClient(target) as metering:
        metering.record("acme", "DetectAuth")
        assert await metering.flush(10)
        recorded = await metering.record_call("acme", "CompareFace")
        usage = await metering.get_monthly_usage("acme", recorded.billing_month)
        assert usage.total_calls == 2, usage

against_the_fake()
asyncio.run(against_the_service(sys.argv[1]))
"""


def requirements(name: str, found: set[str]) -> set[str]:
    """Return a distribution and what it needs, its extras left out."""
    if name not in found:
        found.add(name)
        for line in distribution(name).requires or []:
            if "extra" not in line:
                requirements(re.split(r"[^A-Za-z0-9._-]", line)[0], found)
    return found


def install(name: str, site_packages: Path) -> None:
    """Link an installed distribution's files into another environment: nothing is fetched."""
    for file in distribution(name).files or []:
        if ".." not in file.parts and "__pycache__" not in file.parts:
            target = site_packages / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(Path(str(file.locate())))


def run(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check")
    run(*pip, "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", directory, ".")
    (wheel,) = directory.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment that has the wheel and what its base requires."""
    environment = tmp_path_factory.mktemp("gateway")
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    (site_packages,) = environment.glob("lib/python3*/site-packages")
    for name in requirements("faceid-metering", set()) - {"faceid-metering"}:
        install(name, site_packages)
    with zipfile.ZipFile(wheel) as archive:  # a wheel of pure Python is installed by unpacking it
        archive.extractall(site_packages)
    return environment / "bin" / "python"


def test_the_wheel_has_types(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "faceid_metering/py.typed" in names
    assert "faceid/metering/v1/py.typed" in names


@pytest.mark.timeout(120)
async def test_installed_alone_it_works_with_the_fake_and_with_the_service(python: Path, database_url: str) -> None:
    async with Service(database_url, FakeClock(datetime.now(UTC))) as service:
        await service.activate("acme")
        command = (str(python), "-I", "-W", "error", "-c", GATEWAY, service.target)
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


def test_without_prometheus_its_collector_says_what_is_missing(python: Path) -> None:
    done = subprocess.run(
        (python, "-I", "-c", "import faceid_metering.prometheus"), capture_output=True, text=True, check=False
    )
    assert "No module named 'prometheus_client'" in done.stderr
