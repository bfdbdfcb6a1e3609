"""The cascade file: JSON to a `Cascade`, and back."""

from dataclasses import asdict
from pathlib import Path
from typing import Self

from pydantic import AwareDatetime, Field, model_validator

from pointsman.catalog.json_file import Strict, read_json
from pointsman.values.cascade import AnswerCurve, AnswerModel, Cascade, Signals

VERSION = 1


class CurveEntry(Strict):
    """The curve of one specialist; the lists go together."""

    features: list[str] = Field(min_length=1, max_length=64)
    centre: list[float]
    scale: list[float]
    weights: list[float]
    intercept: float
    words: list[str] = Field(default=[], max_length=100_000)
    passed_over: list[str] = Field(default=[], max_length=100_000)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        unknown = [name for name in self.features if name not in Signals.__dataclass_fields__]
        if unknown:
            raise ValueError(f"unknown features: {', '.join(unknown)}")
        if {len(self.centre), len(self.scale), len(self.weights)} != {len(self.features)}:
            raise ValueError("features, centre, scale and weights differ in length")
        if not all(value > 0 for value in self.scale):
            raise ValueError("a scale is not above 0")
        return self


class ModelEntry(Strict):
    """What is known of one specialist's answers; see `values.cascade.AnswerModel`."""

    answers_hash: str = Field(pattern="^[0-9a-f]{64}$")
    curve: CurveEntry
    shared: bool
    fitting: int = Field(ge=0)
    calibration: int = Field(ge=0)
    right: int = Field(ge=0)
    required_confidence: float = Field(ge=0, le=1)
    wrong: int = Field(ge=0)
    bound: float = Field(ge=0, le=1)
    kept: float = Field(ge=0, le=1)
    labels_missing: int | None = Field(ge=0)
    auroc: float | None = Field(ge=0, le=1)


class CascadeFile(Strict):
    """What `pointsman cascade fit` writes and serving reads."""

    version: int = Field(ge=VERSION, le=VERSION)
    made_at: AwareDatetime
    risk: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, lt=1)
    models: dict[str, ModelEntry]


def read_cascade(path: Path) -> Cascade:
    """Read a cascade file.

    Raises:
        CatalogError: unreadable, or not a cascade file; names every field.

    """
    stated = read_json(path, CascadeFile)
    models = tuple(_model(name, entry) for name, entry in stated.models.items())
    return Cascade(stated.made_at, stated.risk, stated.confidence, models)


def cascade_json(cascade: Cascade) -> str:
    """Return the text of a cascade file."""
    models = {}
    for model in cascade.models:
        fields = asdict(model)
        fields["curve"]["words"] = sorted(model.curve.words)
        fields["curve"]["passed_over"] = sorted(model.curve.passed_over)
        name = fields.pop("specialist")
        models[name] = ModelEntry.model_validate(fields)
    stated = CascadeFile(
        version=VERSION,
        made_at=cascade.made_at,
        risk=cascade.risk,
        confidence=cascade.confidence,
        models=models,
    )
    return stated.model_dump_json(indent=2) + "\n"


def _model(name: str, entry: ModelEntry) -> AnswerModel:
    stated = entry.curve
    curve = AnswerCurve(
        features=tuple(stated.features),
        centre=tuple(stated.centre),
        scale=tuple(stated.scale),
        weights=tuple(stated.weights),
        intercept=stated.intercept,
        words=frozenset(stated.words),
        passed_over=frozenset(stated.passed_over),
    )
    fields = {field: getattr(entry, field) for field in ModelEntry.model_fields if field != "curve"}
    return AnswerModel(specialist=name, curve=curve, **fields)
