"""Calibration for an encoder that was tuned on exemplars: on those that were kept out of the tuning.

A tuned encoder draws the exemplars it was tuned on together, so that even an index without them scores them
like no new prompt: a threshold from them rejected 10 % of CLINC150's validation prompts instead of 5.
"""

import numpy as np
from numpy.typing import NDArray

from pointsman.decision.calibrate import Calibration, calibrate, calibrate_held_out
from pointsman.decision.cross_fit import ABSENT, FOLDS, CrossFitted, folds_of, gap_of
from pointsman.embedding.encoder import Rows
from pointsman.index.exemplar_index import ExemplarIndex

LEAST_KEPT_OUT = 20
"""From how many kept-out exemplars a 5 % quantile is taken."""
_LEAST_CLASSES = 3
"""Under this many intents none can be left out."""


def calibrate_kept_out(
    rows: Rows,
    labels: NDArray[np.int64],
    classes: int,
    rejection: float,
    out_of_scope: float,
    seen: NDArray[np.bool_],
) -> Calibration:
    """Calibrate exemplars (n, d) with labels (n,); `seen` (n,) says which the encoder was tuned on.

    Where none was seen this is `calibrate`; so it is where fewer than 20 were kept out, which then rejects
    too much: on the safe side.
    """
    held = cross_fit_kept_out(rows, labels, classes, seen) if seen.any() else None
    if held is None or held.known.sum() < LEAST_KEPT_OUT:
        return calibrate(rows, labels, classes, rejection, out_of_scope)
    strays = None
    if classes >= _LEAST_CLASSES and out_of_scope > 0:
        strays = _cross_fit_strays(rows, labels, classes, seen, second_head=held.second_head)
    return calibrate_held_out(held, labels, rejection, strays, out_of_scope)


def cross_fit_kept_out(
    rows: Rows, labels: NDArray[np.int64], classes: int, seen: NDArray[np.bool_]
) -> CrossFitted:
    """Score the unseen exemplars by indexes without a fifth of all; with the head that is right more often.

    Folds are those of `cross_fit`; scores of seen exemplars are left out (not `known`). An index without the
    unseen of a fold only, and with all seen ones, rejected 0.5 points more of CLINC150's validation prompts.
    """
    folds = folds_of(labels, rows=rows)
    scores, choice = (np.full((len(rows), classes), ABSENT, np.float32) for _ in range(2))
    known = np.zeros(len(rows), np.bool_)
    for fold in range(FOLDS):
        out = folds == fold
        held = np.flatnonzero(out & ~seen)
        _score_without(rows, labels, out, held, scores, choice, second_head=classes > 1)
        known[held] = np.isin(labels[held], labels[~out])
    single = CrossFitted(scores, scores.argmax(axis=1), gap_of(scores), known, second_head=False)
    double = CrossFitted(scores, choice.argmax(axis=1), gap_of(choice), known, second_head=True)
    return double if double.right(labels) > single.right(labels) else single


def _cross_fit_strays(
    rows: Rows, labels: NDArray[np.int64], classes: int, seen: NDArray[np.bool_], *, second_head: bool
) -> CrossFitted:
    """Score unseen exemplars of left-out classes: they stand for prompts that no intent covers."""
    folds = np.asarray(np.random.default_rng(0).permutation(classes) % FOLDS)[labels]
    scores, choice = (np.full((len(rows), classes), ABSENT, np.float32) for _ in range(2))
    for fold in range(FOLDS):
        out = folds == fold
        held = np.flatnonzero(out & ~seen)
        _score_without(rows, labels, out, held, scores, choice, second_head=second_head)
    scores, choice = scores[~seen], choice[~seen]
    known = np.zeros(len(scores), np.bool_)
    return CrossFitted(scores, choice.argmax(axis=1), gap_of(choice), known, second_head)


def _score_without(
    rows: Rows,
    labels: NDArray[np.int64],
    out: NDArray[np.bool_],
    held: NDArray[np.int64],
    scores: Rows,
    choice: Rows,
    *,
    second_head: bool,
) -> None:
    """Fill in `held` rows of (n, C) by an index without the `out` rows."""
    kept = np.flatnonzero(~out)
    if not len(held) or not len(kept):
        return
    present = np.unique(labels[kept])
    compact = np.searchsorted(present, labels[kept])
    found = ExemplarIndex(rows[kept], compact, len(present), second_head=second_head).score(rows[held])
    scores[held[:, None], present] = found.scores
    choice[held[:, None], present] = found.choice
