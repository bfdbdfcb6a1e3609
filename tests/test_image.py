"""The image as it is configured: safe by itself, and started by every example here in words that let it serve."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
ENVIRONMENT, COMMAND = runpy.run_path(str(ROOT / ".ci" / "dockerfile.py"))["read"](
    (ROOT / "Dockerfile").read_text()
)


def run(arguments: list[str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run what a container would, as far as a settings file that is refused after the addresses are."""
    named = {
        key: re.sub(r":\d+$", ":0", value)
        for key, value in ENVIRONMENT.items()
        if key.startswith("POINTSMAN_SERVER__")
    }
    outside = {key: value for key, value in os.environ.items() if not key.startswith("POINTSMAN_")}
    # An address that nobody has: whoever gets past the question of safety ends there.
    settings = {"POINTSMAN_SERVER__HTTP_ADDRESS": "192.0.2.1:1"}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=tmp_path,
        env=outside | named | settings,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


def arguments_of_the_workflow() -> list[str]:
    text = (ROOT / ".github" / "workflows" / "ci.yaml").read_text().replace("\\\n", " ")
    detached = next(line for line in text.splitlines() if "docker run --detach" in line)
    return shlex.split(re.sub(r".*pointsman:ci", "", detached))


def arguments_of_compose() -> list[str]:
    return list(
        yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]["pointsman"]["command"]
    )


def arguments_of_kubernetes() -> list[str]:
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())
    deployment = next(document for document in documents if document["kind"] == "Deployment")
    return list(deployment["spec"]["template"]["spec"]["containers"][0]["args"])


def test_the_image_by_itself_refuses_to_listen_and_says_what_is_missing(tmp_path: Path) -> None:
    ended = run(COMMAND, tmp_path)
    assert ended.returncode == 2
    assert "is reached from other machines, and there is no TLS" in ended.stderr
    assert "--insecure listens all the same" in ended.stderr


@pytest.mark.parametrize(
    "arguments", [arguments_of_the_workflow, arguments_of_compose, arguments_of_kubernetes]
)
def test_every_example_starts_the_image_so_that_it_listens(arguments, tmp_path: Path) -> None:
    ended = run([COMMAND[0], *arguments()], tmp_path)
    assert "is reached from other machines" not in ended.stderr
    assert "server.http_address: cannot listen on 192.0.2.1:1" in ended.stderr
