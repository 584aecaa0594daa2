"""The audit, as a test asks for it."""

from metering.billing.audit import Audit, audit
from metering.store.audit import AuditStore
from metering.store.database import Database


async def run_audit(url: str) -> Audit:
    database = await Database.connect(url, name="test audit", connections=1)
    try:
        return await audit(AuditStore(database))
    finally:
        await database.close()


async def assert_books_are_right(url: str) -> Audit:
    """Fail with the differences if there are any."""
    found = await run_audit(url)
    assert found.clean, {name: differences for name, differences in found.differences.items() if differences}
    return found
