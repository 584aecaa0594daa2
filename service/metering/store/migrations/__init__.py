"""Migrations: Alembic orders them, each runs the .sql file of its name."""

from pathlib import Path
from typing import Any

from alembic import op


def run_sql_file(python_file: str) -> None:
    """Run the .sql file beside a migration: a script of several statements, which only the driver itself can do."""
    script = Path(python_file).with_suffix(".sql").read_text(encoding="utf-8")

    async def execute(connection: Any) -> None:  # noqa: ANN401 - the driver's, which SQLAlchemy does not type
        await connection.execute(script)

    op.get_bind().connection.dbapi_connection.run_async(execute)  # type: ignore[union-attr]
