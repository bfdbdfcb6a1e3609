"""The process that holds one llama.cpp engine: `python -m pointsman.generation.llama_cpp_child`.

Reads one JSON line from stdin (the engine's specification), answers with one JSON line on stdout
(`{"port": …}` or `{"error": …}`), serves the OpenAI protocol on loopback, and ends when stdin does: an
engine never outlives its server. A crash in native code ends this process, not the server.
"""

import json
import os
import sys
from typing import Any


def main() -> None:
    """Serve until stdin ends."""
    specification = json.loads(sys.stdin.readline())
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever native code prints goes to stderr
    try:
        server = start(specification)
    except (RuntimeError, ValueError, OSError) as error:
        print(json.dumps({"error": str(error)}), file=reply, flush=True)
        sys.exit(1)
    print(json.dumps({"port": int(server.listening_address.rsplit(":", 1)[1])}), file=reply, flush=True)
    sys.stdin.read()
    os._exit(0)  # nothing to save; the engine's own shutdown waits for streams that nobody reads any more


def start(specification: dict[str, Any]) -> Any:
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
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
