"""The calibration file: JSON to a `Promise`, and back."""

from dataclasses import asdict
from pathlib import Path

from pydantic import AwareDatetime, Field

from pointsman.catalog.json_file import Strict, read_json
from pointsman.values.promise import Basis, LabelCounts, Promise

VERSION = 1


class _Counts(Strict):
    total: int = Field(ge=1)
    in_scope: int = Field(ge=0)
    out_of_scope: int = Field(ge=0)
    left_out: int = Field(ge=0)
    conversations: int = Field(default=0, ge=0)


class _Basis(Strict):
    rejection: float = Field(gt=0, lt=1)
    out_of_scope: float = Field(ge=0, lt=1)
    mid: str = ""
    scoring: int = 1


class CalibrationFile(Strict):
    """What `pointsman calibrate` writes and serving reads."""

    version: int = Field(ge=VERSION, le=VERSION)
    encoder_hash: str = Field(pattern="^[0-9a-f]{64}$")
    exemplar_hash: str = Field(pattern="^[0-9a-f]{64}$")
    made_at: AwareDatetime
    labels: _Counts
    risk: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, lt=1)
    slope: float = Field(gt=0)
    intercept: float
    required_confidence: float = Field(ge=0, le=1)
    wrong: int = Field(ge=0)
    bound: float = Field(ge=0, le=1)
    local_share: float = Field(ge=0, le=1)
    labels_missing: int | None = Field(ge=0)
    ece: float = Field(ge=0, le=1)
    brier: float = Field(ge=0, le=1)
    basis: _Basis | None = None
    prompts: int | None = Field(default=None, ge=1)


def read_calibration(path: Path) -> Promise:
    """Read a calibration file.

    Raises:
        CatalogError: unreadable, or not a calibration; names every field.

    """
    stated = read_json(path, CalibrationFile)
    fields = {name: getattr(stated, name) for name in CalibrationFile.model_fields if name != "version"}
    basis = Basis(**stated.basis.model_dump()) if stated.basis else None
    return Promise(**(fields | {"labels": LabelCounts(**stated.labels.model_dump()), "basis": basis}))


def calibration_json(promise: Promise) -> str:
    """Return the text of a calibration file."""
    fields = {
        name: getattr(promise, name)
        for name in CalibrationFile.model_fields
        if name not in {"version", "labels", "basis"}
    }
    counts = _Counts(**asdict(promise.labels))
    basis = _Basis(**asdict(promise.basis)) if promise.basis else None
    made = CalibrationFile(version=VERSION, labels=counts, basis=basis, **fields)
    return made.model_dump_json(indent=2) + "\n"
