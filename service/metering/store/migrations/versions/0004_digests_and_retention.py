"""The digests of bills, and the days whose calls were dropped."""

from metering.store.migrations import run_sql_file

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply it."""
    run_sql_file(__file__)
