"""The dashboard asks for metrics that are there, with labels that they have."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness import Cloud, Site, collect, running, write_prices
from pointsman.client import constraints
from pointsman.ledger.metrics import Metrics
from pointsman.v1 import router_pb2

DASHBOARD = json.loads((Path(__file__).parent.parent / "deploy" / "grafana" / "pointsman.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
NAME = re.compile(r"pointsman_\w+")
SELECTOR = re.compile(r"(pointsman_\w+)\{([^}]*)\}")
BY = re.compile(r"by \(([^)]*)\) \((?:rate|increase)\((pointsman_\w+)")


def known() -> dict[str, set[str]]:
    """Return every sample that a server can show, with its labels; families of labels show only once they are used."""
    metrics = Metrics()
    found: dict[str, set[str]] = {}
    for collector in list(metrics.registry._collector_to_names):  # type: ignore[attr-defined]
        labels = set(getattr(collector, "_labelnames", ()))
        for name in metrics.registry._collector_to_names[collector]:  # type: ignore[attr-defined]
            found[name] = labels | ({"le"} if name.endswith("_bucket") else set())
    return found


def test_every_panel_has_a_title_a_place_of_its_own_and_a_query() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        assert panel["title"]
        assert all(target["expr"] for target in panel["targets"])
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.model
async def test_every_query_asks_for_what_a_server_shows(site: Site, tmp_path: Path) -> None:
    write_prices(site.root, big_model=(2.0, 1.0, 10.0))
    ledger = {"enabled": True, "url": f"sqlite:///{tmp_path / 'ledger.db'}"}
    with Cloud() as cloud:
        settings = site.fill().settings(cloud=cloud.settings, ledger=ledger)
        async with running(settings) as server:
            sampling = router_pb2.Sampling(max_tokens=4)
            for _ in range(settings.cascade.alert_least):
                server.core.answers._shortfalls.note("support", "")
            await collect(server.client.generate("please refund my order", None, sampling))
            await collect(server.client.generate("write an essay on Bismarck", constraints(tier="cloud")))
            from prometheus_client import generate_latest

            text = generate_latest(server.core.metrics.registry).decode()
    shown = known()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            shown.setdefault(sample.name, set()).update(sample.labels)
    for expression in EXPRESSIONS:
        for name in NAME.findall(expression):
            assert name in shown, f"{name} in {expression}"
        for name, selectors in SELECTOR.findall(expression):
            asked = set(re.findall(r"(\w+)=", selectors)) - {"instance"}
            assert asked <= shown[name], f"{asked} of {name}"
        for labels, name in BY.findall(expression):
            assert set(labels.split(", ") if ", " in labels else labels.split(",")) <= shown[name], expression


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_brackets_are_closed(expression: str) -> None:
    for opening, closing in ("()", "[]", "{}"):
        assert expression.count(opening) == expression.count(closing)
