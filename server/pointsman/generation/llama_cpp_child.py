"""The process of one llama.cpp engine: `python -m pointsman.generation.llama_cpp_child`; see `child`."""

from typing import Any

from pointsman.generation.child import Child, run_child

PROMPT_STEP = 64
"""Tokens of a prompt that are read at once. A step is what nobody can interrupt, half a second on one core;
longer ones are no faster there (64, 128, 256 and 2048 read 127, 112, 116 and 104 tokens a second)."""


def start(specification: dict[str, Any]) -> Child:
    """Load the base and all adapters (none applied), and listen on a free loopback port."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = specification["model"]
    slots = specification["slots"] + specification["spare_slots"]
    params.n_parallel = slots
    params.n_ctx = slots * specification["context_tokens"]
    params.n_batch = max(PROMPT_STEP, slots)
    # Its cache of prompts in memory knows no adapters: it would hand one adapter's prompt to another
    # (tests/test_adapters.py).
    params.cache_ram_mib = 0
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
    if specification.get("copies"):  # to files named by the numbers of descriptors that we have inherited
        params.slot_save_path = "/proc/self/fd/"
    params.verbosity = 1  # errors only
    server = xllamacpp.Server(params)
    return Child(server, int(server.listening_address.rsplit(":", 1)[1]))


if __name__ == "__main__":
    run_child(start)
