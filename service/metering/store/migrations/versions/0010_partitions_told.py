"""Sessions that do not know of a partition can be told."""

from metering.store.migrations import run_sql_file

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply it."""
    run_sql_file(__file__)
