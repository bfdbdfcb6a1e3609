"""A matcher to the members of a bundle, and back: nothing is fitted anew, so it routes as it was measured."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pointsman.decision.calibrate import Calibration, Curve
from pointsman.embedding.encoder import Rows
from pointsman.errors import ArtifactError
from pointsman.index.exemplar_index import ExemplarIndex, Fitted
from pointsman.index.head import Head
from pointsman.index.transform import HALF, Transform
from pointsman.router.leaning import fit_leaning
from pointsman.router.snapshot import Learned, Matcher, exemplars_of, scorer_of
from pointsman.values.catalog import Catalog, Intent, Rule, Specialist
from pointsman.values.promise import Promise

ENCODER_MODEL, ENCODER_TOKENIZER = "encoder/model.onnx", "encoder/tokenizer.json"
ENCODER_CARD, ENCODER_TWIN = "encoder/card.json", "encoder/twin.onnx"
DIFFICULTY, CASCADE = "difficulty.npz", "cascade.json"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EncoderId:
    """Which encoder the vectors come from: its name, and the hash over what makes them."""

    model: str
    hash: str


@dataclass(frozen=True, slots=True)
class _Catalog:
    intents: tuple[Intent, ...]
    specialists: tuple[Specialist, ...]
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class _Calibration:
    __pydantic_config__: ClassVar = ConfigDict(allow_inf_nan=False)  # of the curve, too

    offsets: tuple[float, ...]
    margin: float
    curve: Curve
    second_head: bool
    scorer: str = ""
    share: Annotated[float, Field(ge=0, le=HALF)] = HALF  # of the projection in the scores


_CATALOG, _CALIBRATION = TypeAdapter(_Catalog), TypeAdapter(_Calibration)
_PROMISE, _ENCODER = TypeAdapter(Promise), TypeAdapter(EncoderId)


def members_of(matcher: Matcher, encoder: EncoderId) -> dict[str, bytes]:
    """Return the members that hold a matcher."""
    catalog, index, calibration = matcher.catalog, matcher.index, matcher.calibration
    stated = _Catalog(catalog.intents, catalog.specialists, catalog.rules)
    numbers = _Calibration(
        tuple(calibration.offsets.tolist()),
        calibration.margin,
        calibration.curve,
        calibration.second_head,
        matcher.scorer,
        index.transform.share,
    )
    members = {
        "encoder.json": _ENCODER.dump_json(encoder, indent=2),
        "catalog.json": _CATALOG.dump_json(stated, indent=2),
        "calibration.json": _CALIBRATION.dump_json(numbers, indent=2),
        "exemplars.npy": _npy(index.rows),
        "negatives.npy": _npy(index.negatives),
        "index.npy": _npy(index.fitted.vectors),
        "transform/projection.npy": _npy(index.transform.projection),
        "transform/mean.npy": _npy(index.transform.mean),
        "turns/leaning.npy": _npy(matcher.leaning.leaning),
        "turns/standing.npy": _npy(matcher.leaning.standing),
    }
    if matcher.promise is not None:
        members["promise.json"] = _PROMISE.dump_json(matcher.promise, indent=2)
    if index.names is not None:
        members["names.npy"] = _npy(index.names)
    if index.fitted.head is not None:
        members["head/weights.npy"] = _npy(index.fitted.head.weights)
        members["head/bias.npy"] = _npy(index.fitted.head.bias)
    return members


def encoder_of(members: Mapping[str, bytes]) -> EncoderId:
    """Return which encoder a bundle's vectors come from.

    Raises:
        ArtifactError: the bundle does not say.

    """
    return _json(members, "encoder.json", _ENCODER)


def matcher_of(members: Mapping[str, bytes], neighbors: int) -> Matcher:
    """Return the matcher that members hold.

    Raises:
        ArtifactError: a member is missing, or does not fit the others; names it.

    """
    stated = _json(members, "catalog.json", _CATALOG)
    catalog = Catalog(stated.intents, stated.specialists, rules=stated.rules)
    if not catalog.intents:
        _refuse("catalog.json", "no intents")
    exemplars = exemplars_of(catalog)
    n, classes, k = len(exemplars.texts), len(catalog.intents), len(exemplars.negatives)
    rows = _array(members, "exemplars.npy", (n, None))
    d = rows.shape[1]
    projection = _array(members, "transform/projection.npy", (d, None))
    numbers = _json(members, "calibration.json", _CALIBRATION)
    transform = Transform(projection, _array(members, "transform/mean.npy", (d,)), numbers.share)
    head = None
    if "head/weights.npy" in members:
        head = Head(
            _array(members, "head/weights.npy", (d, classes)), _array(members, "head/bias.npy", (classes,))
        )
    names = _array(members, "names.npy", (classes, d)) if "names.npy" in members else None
    vectors = _array(members, "index.npy", (n, projection.shape[1] + d if projection.shape[1] else d))
    index = ExemplarIndex(
        rows,
        exemplars.labels,
        classes,
        _array(members, "negatives.npy", (k, d)),
        exemplars.negative_labels,
        names=names,
        fitted=Fitted(transform, head, vectors),
    )
    if len(numbers.offsets) != classes:
        _refuse("calibration.json", f"{len(numbers.offsets)} offsets for {classes} intents")
    offsets: NDArray[np.float64] = np.array(numbers.offsets)
    calibration = Calibration(offsets, numbers.margin, numbers.curve, numbers.second_head, names is not None)
    promise = _json(members, "promise.json", _PROMISE) if "promise.json" in members else None
    leaning = fit_leaning(
        _array(members, "turns/leaning.npy", (None, d)),
        _array(members, "turns/standing.npy", (None, d)),
        rows,
    )
    texts, ids = exemplars.texts, exemplars.ids
    digest = hashlib.sha256(_member(members, "calibration.json")).hexdigest()
    scorer = numbers.scorer or scorer_of(catalog, encoder_of(members).hash, digest)
    return Matcher(
        catalog, index, calibration, texts, ids, neighbors, leaning, Learned(promise), scorer=scorer
    )


def _npy(array: Rows) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array, np.float32), allow_pickle=False)
    return buffer.getvalue()


def _array(members: Mapping[str, bytes], name: str, shape: tuple[int | None, ...]) -> Rows:
    try:
        array = np.load(io.BytesIO(_member(members, name)), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        _refuse(name, f"not an array: {error}")
    fits = array.ndim == len(shape) and all(
        want in (None, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if array.dtype != np.float32 or not fits:
        wanted = "×".join("any" if size is None else str(size) for size in shape)
        _refuse(
            name, f"expected float32 of {wanted}, found {array.dtype} of {'×'.join(map(str, array.shape))}"
        )
    if not np.isfinite(array).all():
        _refuse(name, "holds values that are not finite")
    return np.asarray(array)


def _json(members: Mapping[str, bytes], name: str, adapter: TypeAdapter[T]) -> T:
    try:
        return adapter.validate_json(_member(members, name))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        _refuse(name, f"{'.'.join(map(str, first['loc']))}: {first['msg']} (got {str(first['input'])[:80]})")


def _member(members: Mapping[str, bytes], name: str) -> bytes:
    content = members.get(name)
    if content is None:
        _refuse(name, "is missing")
    return content


def _refuse(name: str, message: str) -> NoReturn:
    raise ArtifactError(f"bundle: {name}: {message}")
