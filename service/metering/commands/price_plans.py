"""`metering price-plans`: what calls cost, from files and to files."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click
from rich.table import Table

from faceid_metering import MeteringClient
from faceid_metering import MeteringError as ClientError
from faceid_metering import messages as pb
from metering.commands.common import Target, ask, connected, failing_plainly, out, print_table, target_setting
from metering.commands.price_plan_file import PricePlanFile, read_price_plan, to_toml


@click.group()
def price_plans() -> None:
    """What calls cost. The files are described in docs/billing.md."""


@price_plans.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@target_setting
@failing_plainly
def put(files: Sequence[Path], target: Target) -> None:
    """Store the price plan of each FILE (TOML, or JSON if it ends in .json). An unchanged plan gets no new version.

    All files are read before the first plan is stored.
    """
    asyncio.run(put_all([read_price_plan(path) for path in files], target))


async def put_all(files: Sequence[PricePlanFile], target: Target) -> None:
    """Store price plans; raises FileError for one that the service refuses."""
    async with connected(target) as metering:
        for file in files:
            before = await newest_version(metering, file.plan.price_plan_id)
            try:
                stored = await metering.put_price_plan(file.plan)
            except ClientError as error:
                if not error.fields:
                    raise
                raise file.error(*error.fields[0]) from error
            unchanged = " (unchanged)" if stored.version == before else ""
            out.print(f"{stored.price_plan_id}: version {stored.version}{unchanged}")


async def newest_version(metering: MeteringClient, price_plan_id: str) -> int:
    """Return the newest version of a price plan, 0 if there is none."""
    try:
        return (await metering.get_price_plan(price_plan_id)).version
    except ClientError as error:
        if error.reason in {"PRICE_PLAN_NOT_FOUND", "INVALID_FIELD"}:
            return 0
        raise


@price_plans.command("list")
@target_setting
@failing_plainly
def list_plans(target: Target) -> None:
    """List the newest version of every price plan."""

    async def read(metering: MeteringClient) -> list[pb.PricePlan]:
        return [plan async for plan in metering.list_price_plans(page_size=1_000)]

    table = Table("price plan", "version", "currency", "apis", box=None, header_style="dim", pad_edge=False)
    for plan in asyncio.run(ask(target, read, "asking …")):
        table.add_row(
            plan.price_plan_id, str(plan.version), plan.currency, ", ".join(price.api for price in plan.prices)
        )
    print_table(table)


@price_plans.command()
@click.argument("price_plan")
@click.option("--version", default=0, type=click.IntRange(0), help="This version. [default: the newest]")
@target_setting
@failing_plainly
def show(price_plan: str, version: int, target: Target) -> None:
    """Print PRICE_PLAN as a TOML file, ready to be changed and put."""
    plan = asyncio.run(ask(target, lambda metering: metering.get_price_plan(price_plan, version), "asking …"))
    click.echo(to_toml(plan), nl=False)
