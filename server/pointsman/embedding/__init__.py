"""Texts to unit rows. Knows no intents; the only room that imports onnxruntime or sentence-transformers."""
