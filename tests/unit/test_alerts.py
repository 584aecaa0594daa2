"""Alerts, metrics and what docs/operations.md says of them belong together."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from metering.metrics import Metrics

REPOSITORY = Path(__file__).parents[2]
PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
RULES = (PROMETHEUS / "metering-alerts.yml").read_text(encoding="utf-8")
DOCS = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")

NAME = re.compile(r"\b(?:metering|grpc_server)_[a-z_]+\b")


def section(title: str) -> str:
    """Return a section of docs/operations.md."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", DOCS, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def metrics() -> dict[str, str]:
    """Return what is scraped: the name of each metric, and its type."""
    registry = CollectorRegistry()
    Metrics(registry)
    return {metric.name + ("_total" if metric.type == "counter" else ""): metric.type for metric in registry.collect()}


def test_every_metric_is_documented_and_nothing_else() -> None:
    documented = {name for row in section("Metrics").splitlines() for name in NAME.findall(row.split(" | ")[0])}
    assert documented == set(metrics())


def test_every_metric_in_an_alert_exists() -> None:
    expressions = "\n".join(re.findall(r"expr: (?:>-\n)?(.*?)(?=\n +(?:for|labels):)", RULES, re.DOTALL))
    exist = {
        name + part
        for name, kind in metrics().items()
        for part in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
    }
    used = set(NAME.findall(expressions))
    assert len(used) > 15
    assert used <= exist


def test_every_alert_is_documented_and_nothing_else() -> None:
    alerts = re.findall(r"alert: (\w+)", RULES)
    assert len(set(alerts)) == len(alerts)
    assert re.findall(r"^\| `(Metering\w+)`", section("Alerts"), re.MULTILINE) == alerts


@pytest.mark.parametrize(("command", "file"), [("check", "metering-alerts.yml"), ("test", "metering-alerts-test.yml")])
def test_promtool_agrees(command: str, file: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("there is no promtool on this machine: apt-get install prometheus")
    done = subprocess.run(
        [promtool, command, "rules", file], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
