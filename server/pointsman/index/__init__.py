"""Unit rows to neighbours and class scores. Knows no texts and no targets; the only room that imports faiss."""
