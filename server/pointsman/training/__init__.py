"""From a file of examples to a LoRA adapter that an engine serves. Not on the way of a request.

1. `examples`: a JSONL file to checked examples
2. `base`: a GGUF base to a model that can be trained
3. `lora`: examples to trained weights, resumable
4. `export`: trained weights to a GGUF adapter
5. `agreement`: does the engine say what was trained?
6. `evaluate`: zero-shot, few-shot and adapter, through the engine
7. `card`: what was done, and what came of it
"""
