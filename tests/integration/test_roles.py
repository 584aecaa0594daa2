"""Who may do what, on a real service over mutual TLS: every RPC with every role."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from faceid.metering.v1 import account_service_pb2 as accounts_pb
from faceid.metering.v1 import metering_service_pb2 as metering_pb
from metering.rpc.permissions import PERMISSIONS
from metering.security.callers import Role
from tests.support.security import SPIFFE, Certificates, Channels, Issuer
from tests.support.service import FakeClock, Service, Stubs, reason_of
from tests.support.waiting import until

STREAMS = {"WatchServiceStatus", "ListCalls", "PreviewRunMonth", "Watch", "ServerReflectionInfo"}
REQUESTS = {"WatchServiceStatus": metering_pb.WatchServiceStatusRequest(heartbeats=True).SerializeToString()}
"""What is sent where an empty request would wait for ever."""


@pytest.fixture
def roles_file(tmp_path: Path) -> Path:
    file = tmp_path / "roles.toml"
    file.write_text(
        "\n".join(f'[identities."{SPIFFE}/{role}"]\nrole = "{role}"' for role in Role)
        + f'\n[identities."{SPIFFE}/portal"]\nrole = "reader"\naccounts = ["acme"]\n'
        + '\n[identities.old-gateway]\nrole = "gateway"\n'
    )
    return file


@pytest.fixture
async def protected(
    database_url: str, clock: FakeClock, certificates: Certificates, roles_file: Path
) -> AsyncIterator[Service]:
    async with Service(database_url, clock, **certificates.mutual_settings(roles_file)) as service:
        yield service


@pytest.fixture
def channels(protected: Service, certificates: Certificates, clock: FakeClock) -> Channels:
    return Channels(protected.target, certificates, clock)


async def outcome(stubs: Stubs, method: str) -> grpc.aio.AioRpcError | None:
    """Send a request to a method, return the error that it ends with; None: it goes well, or a stream goes on."""
    name = method.rpartition("/")[2]
    request = REQUESTS.get(name, b"")
    make: Any
    try:
        if name not in STREAMS:
            make = stubs.channel.unary_unary(method)
            await make(request, timeout=20)
            return None
        make = stubs.channel.stream_stream(method)
        call = make(iter([request]), timeout=20)
        await call.read()
        if call.done():
            await call.code()
        call.cancel()
    except grpc.aio.AioRpcError as error:
        return error
    return None


async def read_to_the_end(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


DENIED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


@pytest.mark.parametrize("role", [*Role, "stranger"])
async def test_every_rpc_is_for_the_roles_in_its_row_and_for_no_other(
    channels: Channels, certificates: Certificates, role: str
) -> None:
    async with channels.connect(certificates.client(f"{SPIFFE}/{role}")) as stubs:
        for method, permission in PERMISSIONS.items():
            error = await outcome(stubs, method)
            if not permission.roles or role in permission.roles:
                assert error is None or error.code() not in DENIED, f"{method}: {error}"
                continue
            assert error is not None, method
            assert (error.code(), reason_of(error)) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"), method
            needed = " or ".join(each for each in Role if each in permission.roles)
            wanted = "has no role" if role == "stranger" else f"this takes the role {needed}; "
            assert wanted in (error.details() or ""), method


async def test_a_common_name_counts_where_there_are_no_other_names(
    channels: Channels, certificates: Certificates
) -> None:
    async with channels.connect(certificates.client(common_name="old-gateway")) as stubs:
        error = await outcome(stubs, "/faceid.metering.v1.MeteringService/CheckServiceStatus")
        assert error is not None
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT  # it got as far as that
    async with channels.connect(certificates.client(f"{SPIFFE}/nobody", common_name="old-gateway")) as stubs:
        error = await outcome(stubs, "/faceid.metering.v1.MeteringService/CheckServiceStatus")
        assert error is not None
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_certificate_with_two_roles_has_none(channels: Channels, certificates: Certificates) -> None:
    async with channels.connect(certificates.client(f"{SPIFFE}/reader", f"{SPIFFE}/admin")) as stubs:
        error = await outcome(stubs, "/faceid.metering.v1.AccountService/GetAccount")
    assert error is not None
    assert "has more than one role" in (error.details() or "")


@pytest.fixture
async def admin(channels: Channels, certificates: Certificates) -> AsyncIterator[Stubs]:
    async with channels.connect(certificates.client(f"{SPIFFE}/admin")) as stubs:
        yield stubs


@pytest.fixture
async def portal(channels: Channels, certificates: Certificates) -> AsyncIterator[Stubs]:
    """Return a reader that is limited to the account acme."""
    async with channels.connect(certificates.client(f"{SPIFFE}/portal")) as stubs:
        yield stubs


async def two_accounts(admin: Stubs) -> None:
    """Have calls, rejected calls and a bill in the accounts acme and globex."""
    for account in ("acme", "globex"):
        await admin.activate(account)
        october = admin.call(account).occurred_at.ToDatetime().replace(month=10, day=15)
        await admin.record_batch([admin.call(account, at=at) for at in (october, None)])
        too_old = october.replace(year=2025)
        await admin.record_batch([admin.call(account, at=too_old) for _ in range(3)])
    await admin.close_month("2026-10")


async def test_a_limited_reader_reads_its_own_accounts_and_nothing_of_others(admin: Stubs, portal: Stubs) -> None:
    await two_accounts(admin)

    async def everything(account: str) -> list[Any]:
        rejected = accounts_pb.ListRejectedCallsRequest(account_id=account)
        asks = {
            "usage": portal.usage(account, "2026-10"),
            "calls": portal.list_calls(account, "2026-10"),
            "status": portal.status(account),
            "account": portal.account(account),
            "bill": portal.bill(account, "2026-10"),
            "price": portal.accounts.GetPricePlan(
                accounts_pb.GetPricePlanRequest(price_plan_id="standard", account_id=account)
            ),
            "bills": portal.accounts.ListBills(accounts_pb.ListBillsRequest(account_id=account)),
            "rejected": portal.accounts.ListRejectedCalls(rejected),
        }
        return await asyncio.gather(*(wait(ask) for ask in asks.values()), return_exceptions=True)

    async def wait(ask: Any) -> Any:
        return await ask

    assert not [found for found in await everything("acme") if isinstance(found, Exception)]
    for account in ("globex", "unheard-of", "", "acme ", "ACME", "x" * 100_000, "a\0b"):
        for error in await everything(account):
            assert isinstance(error, grpc.aio.AioRpcError)
            assert (error.code(), reason_of(error)) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
            assert "portal" in (error.details() or "")


async def test_a_limited_reader_gets_nothing_that_is_about_all_accounts(admin: Stubs, portal: Stubs) -> None:
    await two_accounts(admin)
    for ask in (
        portal.accounts.ListRejectedCalls(accounts_pb.ListRejectedCallsRequest()),
        portal.accounts.ListPricePlans(accounts_pb.ListPricePlansRequest()),
        portal.accounts.GetPricePlan(accounts_pb.GetPricePlanRequest(price_plan_id="standard")),
        portal.accounts.ListMonthlyRuns(accounts_pb.ListMonthlyRunsRequest()),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await ask
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_page_token_of_another_account_leads_nowhere_else(admin: Stubs, portal: Stubs) -> None:
    await two_accounts(admin)
    for account in ("", "globex"):
        request = accounts_pb.ListRejectedCallsRequest(account_id=account, page_size=1)
        token = (await admin.accounts.ListRejectedCalls(request)).next_page_token
        assert token
        page = await portal.accounts.ListRejectedCalls(
            accounts_pb.ListRejectedCallsRequest(account_id="acme", page_token=token)
        )
        assert {each.call.account_id for each in page.rejected_calls} <= {"acme"}
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await portal.accounts.ListRejectedCalls(accounts_pb.ListRejectedCallsRequest(page_token=token))
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_limited_reader_that_watches_all_accounts_hears_of_its_own_only(admin: Stubs, portal: Stubs) -> None:
    await two_accounts(admin)
    for account_id in ("globex", "unheard-of"):
        call = portal.metering.WatchServiceStatus(
            metering_pb.WatchServiceStatusRequest(account_ids=["acme", account_id])
        )
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
    watch = portal.metering.WatchServiceStatus(metering_pb.WatchServiceStatusRequest())
    assert (await watch.read()).service_status.account_id == "acme"
    for account in ("globex", "acme"):
        await admin.pay(account, "1000")
    newest = (await admin.account("acme")).service_status.version
    while True:
        heard = (await watch.read()).service_status
        assert heard.account_id == "acme"
        if heard.version == newest:
            break
    watch.cancel()


async def test_a_role_that_is_taken_away_is_gone_without_a_restart(
    admin: Stubs, portal: Stubs, protected: Service, roles_file: Path
) -> None:
    await admin.activate("acme")
    request = metering_pb.WatchServiceStatusRequest(heartbeats=True)
    watch = portal.metering.WatchServiceStatus(request)
    assert (await watch.read()).service_status.account_id == "acme"
    whole = roles_file.read_text()
    roles_file.write_text(whole.replace("portal", "somebody"))
    with pytest.raises(grpc.aio.AioRpcError) as error:  # the stream that was under way ends as well
        await read_to_the_end(watch)
    assert (error.value.code(), reason_of(error.value)) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    with pytest.raises(grpc.aio.AioRpcError):
        await portal.status("acme")

    def broken() -> float | None:
        return protected.metrics.registry.get_sample_value("metering_broken_files", {"file": "roles file"})

    roles_file.write_text("nonsense")
    await until(lambda: broken() == 1)
    await admin.status("acme")  # what it said before stays in force
    roles_file.write_text(whole)
    await until(lambda: broken() == 0)
    await portal.status("acme")


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path / "jwks.json")


@pytest.fixture
async def by_token(
    database_url: str, clock: FakeClock, certificates: Certificates, issuer: Issuer
) -> AsyncIterator[Channels]:
    settings = {
        **certificates.settings(),
        "jwks_file": issuer.jwks_file,
        "token_issuer": "https://issuer.example",
        "reflection": False,
    }
    async with Service(database_url, clock, **settings) as service:
        yield Channels(service.target, certificates, clock)


@pytest.mark.parametrize("role", Role)
async def test_a_token_gives_the_same_roles(by_token: Channels, issuer: Issuer, role: str) -> None:
    async with by_token.connect(token=issuer.token(role)) as stubs:
        for method, permission in PERMISSIONS.items():
            error = await outcome(stubs, method)
            allowed = not permission.roles or role in permission.roles
            assert allowed == (error is None or error.code() not in DENIED), f"{method}: {error}"


async def test_without_a_token_only_health_is_told(by_token: Channels) -> None:
    async with by_token.connect() as stubs:
        for method in PERMISSIONS:
            error = await outcome(stubs, method)
            if method.startswith("/grpc.health.v1.Health/"):
                assert error is None or error.code() not in DENIED, f"{method}: {error}"
            elif method.startswith("/grpc.reflection."):
                assert error is not None
                assert error.code() is grpc.StatusCode.UNIMPLEMENTED  # it is switched off here
            else:
                assert error is not None, method
                assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"), method


async def test_a_limited_token_is_limited(by_token: Channels, issuer: Issuer) -> None:
    async with by_token.connect(token=issuer.token()) as admin:
        await two_accounts(admin)
    async with by_token.connect(token=issuer.token("reader", accounts=["acme"])) as stubs:
        assert (await stubs.account("acme")).account_id == "acme"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stubs.account("globex")
        assert reason_of(error.value) == "PERMISSION_DENIED"


async def test_a_key_that_is_taken_back_takes_its_tokens_with_it(by_token: Channels, issuer: Issuer) -> None:
    async with by_token.connect(token=issuer.token()) as before:
        await before.activate("acme")
        request = metering_pb.WatchServiceStatusRequest(heartbeats=True)
        watch = before.metering.WatchServiceStatus(request)
        issuer.new_key("second")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await read_to_the_end(watch)
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    async with by_token.connect(token=issuer.token()) as after:
        await after.account("acme")


async def test_an_expired_token_is_told_from_a_bad_one_and_neither_is_repeated(
    by_token: Channels, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    for token, reason in ((issuer.token(exp=1), "TOKEN_EXPIRED"), ("C4nary.C4nary.C4nary", "UNAUTHENTICATED")):
        async with by_token.connect(token=token) as stubs:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stubs.status("acme")
            assert (error.value.code(), reason_of(error.value)) == (grpc.StatusCode.UNAUTHENTICATED, reason)
            assert token not in f"{error.value}{caplog.text}"
    assert "denied to ipv" in caplog.text
