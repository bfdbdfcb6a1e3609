"""The process of one llama.cpp engine: `python -m pointsman.generation.llama_cpp_child`; see `child`."""

from typing import Any

from pointsman.generation.child import Child, run_child


def start(specification: dict[str, Any]) -> Child:
    """Load the base and all adapters (none applied), and listen on a free loopback port."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = specification["model"]
    params.n_parallel = specification["slots"]
    params.n_ctx = specification["slots"] * specification["context_tokens"]
    params.n_predict = specification["context_tokens"]
    params.cpuparams.n_threads = specification["threads"]
    params.cpuparams_batch.n_threads = specification["threads"]
    # Loaded at scale 0: every request states the scale of every adapter.
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in specification["adapters"]]
    params.lora_init_without_apply = True
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [specification["api_key"]]
    params.endpoint_slots = True
    params.verbosity = 1  # errors only
    server = xllamacpp.Server(params)
    return Child(server, int(server.listening_address.rsplit(":", 1)[1]))


if __name__ == "__main__":
    run_child(start)
