"""Rows of texts that were embedded before, on disk, by encoder hash: only new exemplars are embedded."""

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pointsman.embedding.encoder import Encoder, Rows

_BATCH = 16


class EmbeddingCache:
    """An encoder that remembers. Losing the file costs time, never correctness."""

    def __init__(self, encoder: Encoder, folder: Path) -> None:
        self.encoder = encoder
        self._path = folder / f"embeddings-{encoder.hash[:16]}.sqlite"
        self.embedded = 0
        """Texts that had to be embedded since start."""

    def encode(self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> Rows:
        """Return one unit row a text, (n, d); `progress` is told texts done and texts in all."""
        if not texts:
            return np.zeros((0, self.encoder.dimensions), dtype=np.float32)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=5.0)) as database:
                return self._encode(database, texts, progress)
        except (sqlite3.Error, OSError):  # read-only, full or damaged: work without it
            self.embedded += len(texts)
            return self.encoder.encode(texts)

    @cached_property
    def twin(self) -> "EmbeddingCache":
        """That of the encoder whose scores thresholds come from; itself where there is no other."""
        return self if self.encoder.twin is None else EmbeddingCache(self.encoder.twin, self._path.parent)

    def seen(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Return which texts the encoder was tuned on, (n,)."""
        return self.encoder.seen(texts)

    def _encode(
        self, database: sqlite3.Connection, texts: Sequence[str], progress: Callable[[int, int], None] | None
    ) -> Rows:
        database.execute(
            "CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, row BLOB NOT NULL) WITHOUT ROWID"
        )
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
        known = {key: row for key in set(keys) if (row := self._lookup(database, key)) is not None}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        pending = list(missing.items())
        for start in range(0, len(pending), _BATCH):
            batch = pending[start : start + _BATCH]
            rows = self.encoder.encode([text for _, text in batch])
            self.embedded += len(batch)
            for (key, _), row in zip(batch, rows, strict=True):
                known[key] = row
            with database:
                database.executemany(
                    "INSERT OR IGNORE INTO rows VALUES (?, ?)",
                    [(key, row.tobytes()) for (key, _), row in zip(batch, rows, strict=True)],
                )
            if progress:
                progress(min(start + _BATCH, len(pending)), len(pending))
        return np.stack([known[key] for key in keys])

    def _lookup(self, database: sqlite3.Connection, key: bytes) -> Rows | None:
        found = database.execute("SELECT row FROM rows WHERE key = ?", (key,)).fetchone()
        if found is None or len(found[0]) != 4 * self.encoder.dimensions:
            return None
        return np.frombuffer(found[0], dtype=np.float32)
