"""The FAISS index of outcome-labelled prompts: which of them are most like this one? Knows no outcomes."""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pointsman.embedding.encoder import Rows
from pointsman.index.search import search

NEAREST = 50
"""Labelled prompts that speak for a new one."""


class OutcomeIndex:
    """Unit rows (n, d), searchable. It never changes, so threads may share it; `append` returns a longer one."""

    def __init__(self, rows: Rows) -> None:
        self._index: Any = faiss.IndexFlatIP(rows.shape[1])
        self._index.add(np.ascontiguousarray(rows, dtype=np.float32))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def append(self, rows: Rows) -> "OutcomeIndex":
        """Return an index of these rows (n, d) after the present ones; a copy in memory, nothing is rebuilt."""
        longer = object.__new__(OutcomeIndex)
        longer._index = faiss.clone_index(self._index)
        longer._index.add(np.ascontiguousarray(rows, dtype=np.float32))
        return longer

    def nearest(self, queries: Rows) -> NDArray[np.int64]:
        """Return row numbers (m, min(50, n)) of those most similar to unit rows (m, d), best first."""
        count = min(NEAREST, len(self))
        if not count:
            return np.zeros((len(queries), 0), np.int64)
        _, hits = search(self._index, np.ascontiguousarray(queries, dtype=np.float32), count)
        return hits
