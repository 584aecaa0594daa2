"""Every RPC has a row that says who may send it, and the manual says the same."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from prometheus_client import CollectorRegistry

import faceid.metering.v1
from metering.metrics import Metrics
from metering.rpc.acts import ActNotes
from metering.rpc.edge import Edge
from metering.rpc.permissions import PERMISSIONS
from metering.security.callers import Role
from tests.support.service import FakeClock

MANUAL = Path(__file__).parents[2] / "docs" / "security.md"
READS = ("Get", "List", "Check", "Watch", "Preview")
CALLS = {"RecordCall", "BatchRecordCalls"}


def services() -> list[ServiceDescriptor]:
    """Return all services of the contract, and those that are served beside them."""
    modules = [
        importlib.import_module(f"{faceid.metering.v1.__name__}.{each.name}")
        for each in pkgutil.iter_modules(faceid.metering.v1.__path__)
        if each.name.endswith("_pb2")
    ]
    files = [module.DESCRIPTOR for module in (*modules, health_pb2, reflection_pb2)]
    return [service for file in files for service in file.services_by_name.values()]


def methods() -> set[str]:
    return {f"/{service.full_name}/{method.name}" for service in services() for method in service.methods}


def test_every_rpc_has_a_row_and_every_row_an_rpc() -> None:
    assert len(services()) >= 4
    assert set(PERMISSIONS) == methods()


def test_a_method_without_a_row_is_not_served(clock: FakeClock) -> None:
    class NoActs:
        begin = end = None

    edge = Edge(Metrics(CollectorRegistry()), ActNotes(NoActs(), None, clock), None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"/faceid.metering.v1.MeteringService/Nonsense has no row"):
        edge.add_registered_method_handlers("faceid.metering.v1.MeteringService", {"Nonsense": object()})  # type: ignore[dict-item]


def test_everything_that_changes_something_is_an_act_but_recording_calls() -> None:
    for method, permission in PERMISSIONS.items():
        name = method.rpartition("/")[2]
        if method.startswith("/faceid."):
            assert permission.act == (not name.startswith(READS) and name not in CALLS), method
        else:
            assert not permission.act, method


def test_only_health_is_for_anybody_and_admins_may_do_everything() -> None:
    for method, permission in PERMISSIONS.items():
        assert (not permission.roles) == method.startswith("/grpc.health.v1.Health/"), method
        assert not permission.roles or Role.ADMIN in permission.roles, method


def test_readers_read_and_gateways_know_no_money() -> None:
    for method, permission in PERMISSIONS.items():
        if Role.READER in permission.roles:
            assert not permission.act, method
            assert method.rpartition("/")[2] not in CALLS, method
        if Role.GATEWAY in permission.roles:
            assert method.rpartition("/")[2] in {
                *CALLS,
                "CheckServiceStatus",
                "WatchServiceStatus",
                "ServerReflectionInfo",
            }, method


def test_the_manual_has_the_same_table() -> None:
    """Rows such as `| RecordCall | x | | | x |`, under the roles' names."""
    roles = list(Role)
    header = "| RPC | " + " | ".join(roles) + " |"
    table = MANUAL.read_text().partition(header)[2].partition("\n\n")[0]
    told: dict[str, set[Role]] = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for name in re.findall(r"`(\w+)`", cells[0]):
            told[name] = {role for role, cell in zip(roles, cells[1:], strict=True) if cell}
    assert told == {
        method.rpartition("/")[2]: set(permission.roles) or set(Role)
        for method, permission in PERMISSIONS.items()
        if not method.startswith("/grpc.health.")
    }
