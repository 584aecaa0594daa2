"""The schema of FaceID Metering."""

from metering.store.migrations import run_sql_file

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply it."""
    run_sql_file(__file__)
