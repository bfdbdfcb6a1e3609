"""The file formats as JSON Schemas, for editors."""

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from pointsman.catalog.callers_file import CallersFile
from pointsman.catalog.policy_file import PolicyFile
from pointsman.catalog.prices_file import PricesFile
from pointsman.catalog.rollouts import RolloutFile
from pointsman.catalog.schema import IntentFile, RulesFile, SpecialistFile

_MODELS: dict[str, type[BaseModel]] = {
    "intent": IntentFile,
    "specialist": SpecialistFile,
    "rules": RulesFile,
    "rollout": RolloutFile,
    "callers": CallersFile,
    "policy": PolicyFile,
    "prices": PricesFile,
}


def schemas() -> dict[str, str]:
    """Return the text of each schema file by its name."""
    return {
        f"{name}.schema.json": json.dumps(
            {"$schema": "https://json-schema.org/draft/2020-12/schema"} | model.model_json_schema(), indent=2
        )
        + "\n"
        for name, model in _MODELS.items()
    }


def write_schemas(folder: Path) -> Iterator[Path]:
    """Write the schema files; yields their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in schemas().items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        yield path
