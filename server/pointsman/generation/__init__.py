"""A decision to tokens, from a local engine or the cloud. Knows no vectors and no wire format of ours.

`backend` says what a source of tokens is; `chat_client` speaks the OpenAI protocol to all of them;
`engine_process` keeps one local engine alive, `engine_pool` one a base model; `cloud` is the far one;
`generator` turns a routed request into events. Engines themselves run in child processes
(`llama_cpp_child`, `ctransformers_child`), the only modules that import one.
"""
