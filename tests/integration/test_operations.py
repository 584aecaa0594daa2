"""What operators see: metrics, probes, health, reflection, the command line."""

import asyncio
import logging
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from metering import operations_http
from metering.store.senders import SenderStore
from tests.conftest import ServiceProcesses
from tests.support.command import metering
from tests.support.processes import ServiceProcess
from tests.support.service import FakeClock, Service
from tests.support.waiting import LONG_S, until

UnknownMethod = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]

SERVICES = {"faceid.metering.v1.MeteringService", "faceid.metering.v1.AccountService"}


@pytest.mark.parametrize("workers", [1, 2])
async def test_metrics_and_probes_are_served(processes: ServiceProcesses, workers: int) -> None:
    service = await processes.start("--workers", str(workers))
    await service.activate("acme")
    for _ in range(5):
        await service.record(service.call("acme"))
    await service.until_ready()
    assert await service.get("/livez") == (200, "ok\n")
    assert (await service.get("/nowhere"))[0] == 404
    status, text = await service.get("/metrics")
    assert status == 200
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    record_call = 'grpc_method="RecordCall",grpc_service="faceid.metering.v1.MeteringService",grpc_type="unary"'
    assert float(samples["metering_recorded_calls_total"]) == 5
    assert float(samples[f"grpc_server_started_total{{{record_call}}}"]) == 5
    handled = [
        float(value) for name, value in samples.items() if name.startswith("grpc_server_handled_total{grpc_code")
    ]
    assert sum(handled) >= 6
    assert float(samples["metering_ready"]) == 1
    assert float(samples["metering_workers"]) == workers


async def test_figures_that_cannot_be_told_end_nothing(
    database_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_store: SenderStore, _since: datetime) -> None:
        raise OverflowError

    monkeypatch.setattr(SenderStore, "gauges", fail)
    async with Service(database_url, clock) as service:
        await until(lambda: "the sender gauges failed" in caplog.text)
        await service.activate("acme")
        assert not (await service.record(service.call("acme"))).duplicate


async def test_who_speaks_slowly_to_the_metrics_port_is_hung_up_on_and_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operations_http, "REQUEST_S_MAX", 0.5)
    http = operations_http.OperationsHttp("127.0.0.1", 0, CollectorRegistry(), str, str)
    silent, slow, other = [await asyncio.open_connection("127.0.0.1", http.port) for _ in range(3)]
    hung_up = asyncio.gather(silent[0].read(), slow[0].read())
    other[1].write(b"GET /livez HTTP/1.0\r\n\r\n")
    assert (await other[0].read()).startswith(b"HTTP/1.0 200 OK")
    async with asyncio.timeout(LONG_S):
        while not hung_up.done():
            slow[1].write(b"G")
            await asyncio.sleep(0.02)
    assert await hung_up == [b"", b""]
    for _, writer in (silent, slow, other):
        writer.close()
    http.close()


async def test_health_and_reflection_are_served(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    health = health_pb2_grpc.HealthStub(service.channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    async with asyncio.timeout(10):
        for name in ("", *SERVICES):
            while (await health.Check(health_pb2.HealthCheckRequest(service=name))).status != serving:
                await asyncio.sleep(0.01)
    watch = health.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == serving
    watch.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await health.Check(health_pb2.HealthCheckRequest(service="nonsense"))
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    labels = {"grpc_service": "grpc.health.v1.Health", "grpc_method": "Check", "grpc_code": "NOT_FOUND"}
    counted = service.metrics.registry.get_sample_value("grpc_server_handled_total", {"grpc_type": "unary", **labels})
    assert counted == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    reflection = reflection_pb2_grpc.ServerReflectionStub(service.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async for response in reflection.ServerReflectionInfo(iter([request])):
        assert {found.name for found in response.list_services_response.service} > SERVICES


async def test_an_unknown_method_is_unimplemented(service: Service) -> None:
    call: UnknownMethod = service.channel.unary_unary("/faceid.metering.v1.MeteringService/Nonsense")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(b"")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_two_workers_serve_on_one_port_and_stop_cleanly(processes: ServiceProcesses) -> None:
    service = await processes.start("--workers", "2")
    assert len(await service.worker_pids()) == 2
    await service.activate("acme")
    await service.record(service.call("acme"))
    pids = await service.worker_pids()
    assert await service.terminate() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


async def test_workers_do_not_outlive_a_supervisor_that_is_killed(processes: ServiceProcesses) -> None:
    service = await processes.start("--workers", "2")
    pids = await service.worker_pids()
    await service.kill()
    async with asyncio.timeout(10):
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_an_address_in_use_is_named_plainly(database_url: str, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, said = await metering(
            *("serve", "--listen", address, "--metrics-listen", "127.0.0.1:0", "--workers", workers),
            METERING_DATABASE_URL=database_url,
        )
    assert code == 1
    assert f"Error: cannot listen on {address}" in said
    assert "Traceback" not in said


async def test_only_loopback_is_listened_on_unless_told_otherwise(database_url: str) -> None:
    code, said = await metering("serve", "--listen", "0.0.0.0:0", METERING_DATABASE_URL=database_url)
    assert code == 2
    assert "--insecure-listen" in said


async def test_settings_come_from_variables_too(database_url: str) -> None:
    code, said = await metering("serve", METERING_WORKERS="many", METERING_DATABASE_URL=database_url)
    assert code == 2
    assert "METERING_WORKERS" in said


async def test_another_time_zone_is_refused_plainly(processes: ServiceProcesses) -> None:
    await processes.start()
    code, said = await metering(
        *("serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"),
        METERING_DATABASE_URL=processes.database_url,
        METERING_BILLING_TIMEZONE="UTC",
    )
    assert code == 1
    assert "METERING_BILLING_TIMEZONE=Asia/Shanghai" in said


async def last_month(service: ServiceProcess, calls: int) -> str:
    """Record calls of acme in the middle of the month before this one; return that month."""
    await service.activate("acme")
    at = (datetime.now(UTC).replace(day=1, hour=12) - timedelta(days=10)).replace(day=15)
    await service.record_batch([service.call("acme", at=at) for _ in range(calls)])
    return at.strftime("%Y-%m")


async def test_a_month_is_read_closed_and_deducted_by_command(processes: ServiceProcesses) -> None:
    service = await processes.start()
    month = await last_month(service, 1_000)
    target = {"METERING_TARGET": service.target}

    async def run(*arguments: str) -> str:
        code, said = await metering(*arguments, **target)
        assert code == 0, said
        return said

    assert "1,000 calls; 12.5 CNY so far" in await run("usage", "acme", month)
    assert f"{month} would have 1 bills: 12.5 CNY" in await run("close-month", month, "--dry-run")
    assert f"{month} has 1 bills: 12.5 CNY" in await run("close-month", month)
    assert "it had been closed before" in await run("close-month", month)
    await service.pay("acme", "20")
    assert "0 CNY deducted now, 0 CNY outstanding: bill PAID" in await run("deduct", "acme", month)
    code, said = await metering("usage", "nobody", month, **target)
    assert (code, "Error" in said, "nobody" in said, "Traceback" in said) == (1, True, True, False)
    assert (await metering("migrate", METERING_DATABASE_URL=processes.database_url))[0] == 0


async def test_a_service_that_is_not_there_is_named_plainly() -> None:
    code, said = await metering("close-month", "2026-10", "--dry-run", "--target", "127.0.0.1:1")
    assert code == 1
    assert "no metering service answers at 127.0.0.1:1" in said
    assert "Traceback" not in said


async def test_the_demo_comes_out_as_it_should() -> None:
    code, said = await metering("demo")
    assert code == 0, said
    assert "exactly those recorded" in said
    assert "the books are right" in said


async def test_metrics_of_a_service_in_this_process_count_bills_carried_and_duplicate_calls(
    service: Service, clock: FakeClock
) -> None:
    await service.activate("acme")
    october = datetime(2026, 10, 15, tzinfo=UTC)
    call = service.call("acme", at=october)
    for _ in range(3):
        await service.record(call)
    for dry_run in (True, False, False):
        await service.close_month("2026-10", dry_run=dry_run)
    await service.record_batch([service.call("acme", at=october) for _ in range(120)])
    with pytest.raises(grpc.aio.AioRpcError):
        await service.record(service.call("nobody"))

    def sample(name: str, **labels: str) -> float | None:
        return service.metrics.registry.get_sample_value(name, labels)

    assert sample("metering_recorded_calls_total") == 121
    assert sample("metering_duplicate_calls_total") == 2
    assert sample("metering_carried_calls_total") == 120
    assert sample("metering_issued_bills_total") == 1
    assert sample("metering_rejected_calls_total", reason="ACCOUNT_NOT_FOUND") == 1
