"""A `pointsman serve` of its own process, over a folder of specialists and a folder of models of its own."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from pointsman.artifacts.store import ArtifactStore
from pointsman.settings import load
from pointsman.values.catalog import Artifact

ROOT = Path(__file__).parent.parent


def base_for(scratch: Path, artifact: Artifact) -> Path:
    """Return a base, fetched where it is not there yet; the server of `scratch` finds it too."""
    base = ArtifactStore(load().paths.models, ROOT / "specialists").fetch(artifact)
    own = scratch / "models" / artifact.sha256
    own.mkdir(parents=True)
    (own / base.name).symlink_to(base)
    return base


@contextmanager
def served(folder: Path, scratch: Path, general: str = "s0"):
    """Serve the specialists of a folder, without intents; yields the address."""
    log = scratch / f"{folder.name}.log"
    environment = os.environ | {
        "POINTSMAN_PATHS__INTENTS": str(scratch / "no-intents"),
        "POINTSMAN_PATHS__SPECIALISTS": str(folder),
        "POINTSMAN_PATHS__MODELS": str(scratch / "models"),
        "POINTSMAN_ROUTING__GENERAL_SPECIALIST": general,
        "POINTSMAN_SERVER__ADDRESS": "127.0.0.1:0",
        "POINTSMAN_SERVER__METRICS_ADDRESS": "",
        "POINTSMAN_LOG__FORMAT": "json",
        "POINTSMAN_LEDGER__URL": f"sqlite:///{scratch / 'ledger.db'}",
    }
    (scratch / "no-intents").mkdir(exist_ok=True)
    with log.open("w") as sink:
        process = subprocess.Popen([sys.executable, "-m", "pointsman", "serve"], env=environment, stderr=sink)
    try:
        while not (ready := [line for line in log.read_text().splitlines() if '"server.ready"' in line]):
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.1)
        yield f"127.0.0.1:{json.loads(ready[0])['port']}"
    finally:
        process.terminate()
        process.wait()
