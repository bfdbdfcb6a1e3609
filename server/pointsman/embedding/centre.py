"""A BERT-shaped model to one that computes the same, with activations around zero: int8 then loses less.

Dynamic quantisation spreads the 256 steps of int8 from the least value of all channels to the greatest, and after a
layer norm some channels lie far off zero. A constant that is taken from the bias of the norm, and given to the biases
of what reads its rows, changes no result and costs no time ('Outlier Suppression+', Wei et al., 2023). Of three encoders tuned on 10 exemplars an
intent of CLINC150, int8's mean cosine to fp32 went from 0.9935 to 0.9949.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pointsman.embedding.tune import embed

_TAIL = 0.01
"""Share of values beyond either end of what is centred: a few are far out, and would decide alone."""


@dataclass(frozen=True, slots=True)
class _Site:
    """A module whose rows (t, d) are moved by its bias, the products that read them, and those they are added to."""

    source: Any
    readers: tuple[Any, ...]
    added_to: tuple[Any, ...]


def centred(model: Any, texts: Sequence[str]) -> Any:
    """Return a copy of a `SentenceTransformer` with what int8 rounds centred, as it is on some texts.

    A model of another shape than BERT's is returned as it is. Shape is told by the names of the modules, so whether the
    copy computes the same is for the caller to see.

    Raises:
        RuntimeError, ValueError, TypeError: the names are BERT's, the sizes or biases are not.

    """
    import torch

    copy = deepcopy(model)
    sites = _sites(copy)
    if not sites:
        return model
    rows: dict[Any, list[Any]] = {site.source: [] for site in sites}
    hooks = [
        source.register_forward_hook(lambda module, _, output: rows[module].append(output.flatten(0, -2)))
        for source in rows
    ]
    embed(copy, texts)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        for site in sites:
            found = torch.cat(rows[site.source])  # (t, d)
            low, high = (torch.quantile(found, share, dim=0) for share in (_TAIL, 1 - _TAIL))
            shift = (low + high) / 2
            site.source.bias -= shift
            for product in site.readers:
                product.bias += product.weight @ shift
            for product in site.added_to:
                product.bias += shift
    return copy


def _sites(model: Any) -> list[_Site]:
    found = []
    try:
        bert = next(module for module in model.modules() if hasattr(module, "encoder"))
        norm = bert.embeddings.LayerNorm
        for layer in bert.encoder.layer:
            attention, mixed = layer.attention.self, layer.attention.output
            found.append(_Site(norm, (attention.query, attention.key, attention.value), (mixed.dense,)))
            # What values are mixed with adds up to 1.
            found.append(_Site(attention.value, (mixed.dense,), ()))
            found.append(_Site(mixed.LayerNorm, (layer.intermediate.dense,), (layer.output.dense,)))
            norm = layer.output.LayerNorm
    except (AttributeError, StopIteration):  # put together in another way
        return []
    return found
