"""Encoder settings to an encoder."""

from pointsman.artifacts.store import ArtifactStore
from pointsman.embedding.build import DEFAULT_MODEL, TOKENIZER, default_graph
from pointsman.embedding.encoder import Encoder
from pointsman.errors import ConfigError
from pointsman.settings import Encoder as EncoderSettings


def load_encoder(settings: EncoderSettings, store: ArtifactStore) -> Encoder:
    """Return the configured encoder, fetching and building what it needs.

    Raises:
        ConfigError: a backend that cannot load that model.
        ArtifactError: the embedded default cannot be fetched.

    """
    is_default = settings.model in {DEFAULT_MODEL, f"sentence-transformers/{DEFAULT_MODEL}"}
    if settings.backend == "onnx" and not is_default:
        raise ConfigError(f"encoder.backend onnx serves {DEFAULT_MODEL} only (got {settings.model!r})")
    if is_default and settings.backend != "sentence-transformers":
        from pointsman.embedding.onnx_encoder import OnnxEncoder

        return OnnxEncoder(default_graph(store), store.fetch(TOKENIZER), settings.threads)
    from pointsman.embedding.sentence_encoder import SentenceEncoder

    return SentenceEncoder(settings.model, settings.threads)
