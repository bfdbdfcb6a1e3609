"""What a row is made of: the last layer of the embedded default, and half of the fourth of its six.

The last layer of a sentence encoder is trained for likeness of meaning at large; the layers before it still tell apart
what that blurs (Jawahar, Sagot and Seddah, 'What Does BERT Learn about the Structure of Language?', 2019; two layers
averaged: Su et al., 'Whitening Sentence Representations for Better Semantics and Faster Retrieval', 2021). On
validation prompts of CLINC150, 10 exemplars an intent, six draws, fp32: accuracy 91.6 to 93.0 and joint accuracy 89.0 to
90.2, half of it by leaving the marks of begin and end out of the mean (`OnnxEncoder`); all exemplars, 96.2 to 96.8. On
BANKING77's training texts, 10 an intent, twelve draws: 84.8 to 85.0. It costs one sum a token.
"""

from pathlib import Path

LAYER, SHARE = 4, 0.5
"""Which layer, counted from 1, and how much of it is added to the last. Layers 3 and 5, 4 with 0.35, and 3 and 5
together do as well within 0.2 points."""


def blend(source: Path, target: Path) -> None:
    """Rewrite a BERT-shaped graph so that its tokens (t, d) are those of the last layer plus a share of another's.

    Its first layer norm is that of the embeddings; each layer ends with the second of its own two.
    """
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(source)
    graph = model.graph
    (tokens,) = graph.output
    norms = [node for node in graph.node if node.op_type == "LayerNormalization"]
    middle, last = norms[2 * LAYER].output, norms[-1].output
    if last[0] != tokens.name:
        raise ValueError(f"{source}: does not end with a layer norm")
    last[0] = "last_layer"
    graph.initializer.append(numpy_helper.from_array(np.array(SHARE, np.float32), "blend_share"))
    graph.node.extend(
        [
            helper.make_node("Mul", [middle[0], "blend_share"], ["blend_middle"]),
            helper.make_node("Add", [last[0], "blend_middle"], [tokens.name]),
        ]
    )
    onnx.checker.check_model(model)
    onnx.save(model, target)
