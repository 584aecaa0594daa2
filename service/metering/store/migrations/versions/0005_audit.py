"""The passes of the continuous audit."""

from metering.store.migrations import run_sql_file

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply it."""
    run_sql_file(__file__)
