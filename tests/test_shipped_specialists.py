"""The specialists in specialists/, as shipped, over the real engine."""

import shutil
from pathlib import Path

import pytest
import yaml

from harness import Site, collect, running
from pointsman.catalog.output_format import format_of
from pointsman.client import constraints
from pointsman.v1 import router_pb2

ROOT = Path(__file__).parent.parent
ASKED = {
    "support": (
        "cancel order 5512 please, I found it cheaper",
        "CATEGORY: ORDER\nINTENT: cancel_order\nORDER_ID: 5512",
    ),
    "slots": (
        "will it rain in Oslo on friday",
        '{"intent": "GetWeather", "condition_description": "rain", "city": "Oslo", "timeRange": "friday"}',
    ),
    "sql": (
        "columns: city, mayor, population\nWho is the mayor of Lisbon?",
        "SELECT mayor WHERE city = 'lisbon'",
    ),
}


def held_to_their_formats(folder: Path) -> Path:
    """Copy the shipped folder, with every grammar and schema in force from the first token."""
    shutil.copytree(ROOT / "specialists", folder)
    for path in folder.glob("*.yaml"):
        fields = yaml.safe_load(path.read_text())
        output = fields.get("output", {})
        if output.get("grammar") or output.get("schema"):
            output["constrained"] = "always"
        path.write_text(yaml.safe_dump(fields))
    return folder


@pytest.mark.model
@pytest.mark.parametrize("held", [False, True], ids=["free", "held to their formats"])
async def test_the_shipped_adapters_answer_right_in_their_formats(
    site: Site, base_model: Path, held: bool
) -> None:
    folder = held_to_their_formats(site.root / "held") if held else ROOT / "specialists"
    sampling = router_pb2.Sampling(temperature=0)
    async with running(site.settings(paths={"specialists": folder})) as server:
        catalog = server.core.catalogs.catalog
        assert catalog.problems == ()
        for name, (prompt, answer) in ASKED.items():
            text, events = await collect(
                server.client.generate(prompt, constraints(specialist=name), sampling)
            )
            assert text == answer
            assert not events[-1].done.low_confidence
            specialist = catalog.specialist(name)
            assert specialist is not None
            checks = format_of(specialist.output)
            assert checks is not None
            assert checks.why_not(text) == ""
            assert checks.why_not(f"{text} and more")
            if name == "sql":
                assert checks.why_not(text.replace("lisbon", "Lisbon"))
