"""The process beside a native `llama-server`: `python -m pointsman.generation.llama_server_child`; see `child`.

It starts the configured binary with the same model, adapters and limits as the embedded engine, and ends
it with itself, whichever way either of them ends.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

from pointsman.generation.child import Child, run_child
from pointsman.generation.llama_cpp_child import PROMPT_STEP
from pointsman.settings import child_environment

_POLL_S = 0.1
_PR_SET_PDEATHSIG = 1


def command(specification: dict[str, Any], port: int) -> list[str]:
    """Return the command line; the flags are those of llama.cpp's tools/server/README.md."""
    slots, context = specification["slots"] + specification["spare_slots"], specification["context_tokens"]
    threads = str(specification["threads"])
    adapters = specification["adapters"]
    return [
        specification["binary"],
        *("--model", specification["model"], "--host", "127.0.0.1", "--port", str(port)),
        *("--parallel", str(slots), "--ctx-size", str(slots * context), "--predict", str(context)),
        # As in the embedded engine; see llama_cpp_child.
        *("--batch-size", str(max(PROMPT_STEP, slots)), "--cache-ram", "0"),
        *("--threads", threads, "--threads-batch", threads, "--slots", "--no-webui", "--verbosity", "1"),
        # Loaded at scale 0: every request states the scale of every adapter.
        *(("--lora-init-without-apply", "--lora", ",".join(adapters)) if adapters else ()),
    ]


def start(specification: dict[str, Any]) -> Child:
    """Start the binary, and wait until it answers. How long that may take is our parent's to say."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        command(specification, port),
        stdin=subprocess.DEVNULL,
        # Not on the command line: `ps` shows that.
        env=child_environment() | {"LLAMA_API_KEY": specification["api_key"]},
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has no threads yet
    )
    while not _answers(port):
        if process.poll() is not None:
            raise RuntimeError(f"{specification['binary']} ended with status {process.returncode}")
        time.sleep(_POLL_S)
    threading.Thread(target=lambda: os._exit(abs(process.wait()) or 1), daemon=True).start()
    return Child(process, port)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as reply:
            return bool(json.load(reply).get("status") == "ok")
    except (urllib.error.URLError, OSError, ValueError):
        return False


if __name__ == "__main__":
    run_child(start)
