"""A `Difficulty` to one .npz file, and back. No pickle, no prompt text.

The file holds a JSON header (format version, encoder hash, date, counts, promise, threshold, topics), the
arrays, and a sha256 over both: a byte that changed is found, though not a forger who renews the sum.
"""

import hashlib
import io
import json
import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointsman.artifacts.whole_file import whole_file
from pointsman.decision.difficulty import ALL_CLOUD, Difficulty, QualityPromise, covered
from pointsman.decision.estimator import estimate
from pointsman.decision.outcomes import LEAST_CALIBRATION, LEAST_TRAINING, Outcomes
from pointsman.decision.ridge import FEATURES, Moments
from pointsman.errors import ArtifactError
from pointsman.index.outcome_index import OutcomeIndex

FORMAT = 1
"""Raised whenever an older reader would misread the file."""

_KEYS = {
    "format", "encoder_hash", "fitted", "training", "calibration", "dimensions", "target", "confidence",
    "threshold", "alpha", "cut", "topics",
}  # fmt: skip
_SIDES = ("training", "calibration")
_KINDS: dict[str, Any] = {
    "rows": np.float32, "features": np.float64, "topics": np.int32, "local": np.float64, "cloud": np.float64,
}  # fmt: skip
_UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError,
    MemoryError, OverflowError, TypeError, SyntaxError, IndexError, struct.error, tokenize.TokenError,
)  # fmt: skip
"""What NumPy's and the standard library's readers raise over garbage."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A difficulty file as it was read. `fitted`: when it was last fitted or appended to, ISO 8601, UTC."""

    difficulty: Difficulty
    fitted: str


def save(difficulty: Difficulty, path: Path, fitted: datetime | None = None) -> None:
    """Write the file, whole or not at all. `fitted` is now unless given.

    Raises:
        ArtifactError: it cannot be written.

    """
    sides = {"training": difficulty.training, "calibration": difficulty.calibration}
    numbers: dict[str | None, int] = {None: -1}
    for side in sides.values():
        for topic in side.topics:
            numbers.setdefault(topic, len(numbers) - 1)
    header = {
        "format": FORMAT,
        "encoder_hash": difficulty.encoder_hash,
        "fitted": (fitted or datetime.now(UTC)).isoformat(timespec="seconds"),
        **{name: len(side) for name, side in sides.items()},
        "dimensions": difficulty.training.rows.shape[1],
        "target": difficulty.promise.target,
        "confidence": difficulty.promise.confidence,
        "threshold": None if difficulty.threshold == ALL_CLOUD else difficulty.threshold,
        "alpha": difficulty.alpha,
        "cut": difficulty.cut,
        "topics": [topic for topic in numbers if topic is not None],
    }
    arrays: dict[str, NDArray[Any]] = {"moments": difficulty.moments.sums}
    for name, side in sides.items():
        codes = np.array([numbers[topic] for topic in side.topics], np.int32)
        found = (side.rows, side.features, codes, side.local, side.cloud)
        for (key, kind), array in zip(_KINDS.items(), found, strict=True):
            arrays[f"{name}_{key}"] = np.ascontiguousarray(array, dtype=kind)
    text = json.dumps(header).encode()
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        header=np.frombuffer(text, np.uint8),
        sha256=np.frombuffer(_digest(text, arrays), np.uint8),
        **arrays,
    )
    try:
        with whole_file(path) as file:
            file.write(buffer.getbuffer())
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written: {error.strerror or error}") from error


def load(path: Path, encoder_hash: str | None = None) -> Saved:
    """Read and check a file; `encoder_hash` is that of the encoder in use, None to take any.

    Raises:
        ArtifactError: no such file, not such a file, a newer format, damaged, or of another encoder.

    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            members = {name: file[name] for name in file.files}
            text = members.pop("header").tobytes()
            digest = members.pop("sha256").tobytes()
        header = json.loads(text)
        version = header["format"]
    except _UNREADABLE as error:
        raise ArtifactError(f"{path}: not a difficulty file, or a damaged one: {error}") from error
    if version != FORMAT:
        raise ArtifactError(
            f"{path}: has format {version!r}; this version reads format {FORMAT}; fit it again"
        )
    if digest != _digest(text, members):
        raise ArtifactError(f"{path}: its content does not match its sha256; it was changed after the fit")
    try:
        saved = _build(header, members)
    except _UNREADABLE as error:
        raise ArtifactError(f"{path}: does not hold what its format says: {error}") from error
    found = saved.difficulty.encoder_hash
    if encoder_hash is not None and found != encoder_hash:
        raise ArtifactError(
            f"{path}: was fitted with the encoder {found[:16]}…, but {encoder_hash[:16]}… is in use; "
            "fit it again with `pointsman difficulty fit`"
        )
    return saved


def _build(header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Saved:
    """Raise ValueError for a header or arrays that do not fit together."""
    if header.keys() != _KEYS:
        raise ValueError(f"its header differs in {', '.join(sorted(header.keys() ^ _KEYS))}")
    d, topics = int(header["dimensions"]), [*header["topics"], None]  # the code −1 finds the None
    sides = [_outcomes(name, int(header[name]), d, topics, arrays) for name in _SIDES]
    training, calibration = sides
    sums = _checked("moments", arrays["moments"], np.float64, (d + FEATURES + 2, d + FEATURES + 2))
    moments = Moments(sums)
    alpha, threshold = header["alpha"], header["threshold"]
    if alpha is not None and (len(training) < LEAST_TRAINING or len(calibration) < LEAST_CALIBRATION):
        raise ValueError(f"it is on with {len(training)} training and {len(calibration)} calibration labels")
    difficulty = Difficulty(
        training,
        calibration,
        QualityPromise(float(header["target"]), float(header["confidence"])),
        moments,
        None if alpha is None else float(alpha),
        None if alpha is None else estimate(training, moments, float(alpha), OutcomeIndex(training.rows)),
        ALL_CLOUD if threshold is None else float(threshold),
        str(header["encoder_hash"]),
        float(header["cut"]),
        covered(training, calibration),
    )
    return Saved(difficulty, str(header["fitted"]))


def _outcomes(
    side: str, n: int, d: int, topics: list[str | None], arrays: dict[str, NDArray[Any]]
) -> Outcomes:
    shapes = {"rows": (n, d), "features": (n, FEATURES), "topics": (n,), "local": (n,), "cloud": (n,)}
    found = {
        key: _checked(f"{side}_{key}", arrays[f"{side}_{key}"], kind, shapes[key])
        for key, kind in _KINDS.items()
    }
    codes = found["topics"]
    if n and not (codes.min() >= -1 and codes.max() < len(topics) - 1):
        raise ValueError(f"{side}_topics names a topic that is not listed")
    names = tuple(topics[code] for code in codes.tolist())
    return Outcomes(found["rows"], found["features"], names, found["local"], found["cloud"])


def _checked(name: str, array: NDArray[Any], kind: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    if array.dtype != kind or array.shape != shape:
        raise ValueError(f"{name} is {array.dtype} {array.shape}, not {np.dtype(kind)} {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite")
    return array


def _digest(header: bytes, arrays: dict[str, NDArray[Any]]) -> bytes:
    """Return the sha256 over the header and over each array with its name, type and shape."""
    total = hashlib.sha256(header)
    for name in sorted(arrays):
        array = arrays[name]
        total.update(f"\0{name} {array.dtype.str} {array.shape}\0".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.digest()
