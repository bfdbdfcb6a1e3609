"""Encoder settings to an encoder."""

from pathlib import Path

from pointsman.artifacts.store import ArtifactStore
from pointsman.embedding.build import DEFAULT_MODEL, TOKENIZER, default_graph
from pointsman.embedding.card import CARD_FILE
from pointsman.embedding.encoder import Encoder
from pointsman.errors import ConfigError
from pointsman.sections import Encoder as EncoderSettings


def load_encoder(settings: EncoderSettings, store: ArtifactStore) -> Encoder:
    """Return the configured encoder, fetching and building what it needs.

    Raises:
        ConfigError: a backend that cannot load that model.
        ArtifactError: the embedded default cannot be fetched, or a tuned encoder is not what its card says.

    """
    if (Path(settings.model) / CARD_FILE).is_file():
        if settings.backend == "sentence-transformers":
            raise ConfigError(f"encoder.backend: {settings.model} is a tuned encoder; auto or onnx serves it")
        from pointsman.embedding.tuned_encoder import TunedEncoder

        return TunedEncoder(Path(settings.model), settings.threads)
    is_default = settings.model in {DEFAULT_MODEL, f"sentence-transformers/{DEFAULT_MODEL}"}
    if settings.backend == "onnx" and not is_default:
        raise ConfigError(f"encoder.backend onnx serves {DEFAULT_MODEL} only (got {settings.model!r})")
    if is_default and settings.backend != "sentence-transformers":
        from pointsman.embedding.onnx_encoder import OnnxEncoder

        return OnnxEncoder(default_graph(store), store.fetch(TOKENIZER), settings.threads)
    from pointsman.embedding.sentence_encoder import SentenceEncoder

    return SentenceEncoder(settings.model, settings.threads)
