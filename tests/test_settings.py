"""Environment and file to settings: what wins, what is refused and in which words, what stays secret."""

import ast
import json
from pathlib import Path

import pytest

import pointsman
from pointsman.errors import ConfigError
from pointsman.settings import child_environment, known_variables, load

SECRET = "sk-very-secret"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working directory without a pointsman.yaml."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(config: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(config)
    return str(caught.value)


def write(text: str | bytes, name: str = "pointsman.yaml") -> Path:
    path = Path(name)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_everything_has_a_default():
    settings = load()
    assert settings.server.address == "127.0.0.1:50051"
    assert settings.cloud.model == ""
    assert settings.routing.rejection == 0.05
    assert settings.engine.threads >= 1


def test_the_file_in_the_working_directory_is_read():
    write("server:\n  address: 0.0.0.0:1\nrouting:\n  cloud_task_types: [poetry]\n")
    settings = load()
    assert settings.server.address == "0.0.0.0:1"
    assert settings.routing.cloud_task_types == ["poetry"]
    assert settings.server.grace_s == 20


def test_an_empty_file_sets_nothing():
    write("# nothing\n")
    assert load().model_dump() == load(write("", "other.yaml")).model_dump()


def test_a_file_may_be_named_by_the_environment(monkeypatch):
    monkeypatch.setenv("POINTSMAN_CONFIG", str(write("log: {level: debug}\n", "other.yaml")))
    assert load().log.level == "debug"


def test_a_file_named_by_the_caller_wins_over_the_environments(monkeypatch):
    monkeypatch.setenv("POINTSMAN_CONFIG", str(write("log: {level: debug}\n", "other.yaml")))
    assert load(write("log: {level: error}\n", "third.yaml")).log.level == "error"


@pytest.mark.parametrize("by_environment", [True, False])
def test_a_named_file_that_is_missing_is_refused(monkeypatch, by_environment):
    if by_environment:
        monkeypatch.setenv("POINTSMAN_CONFIG", "nowhere.yaml")
    assert refusal(None if by_environment else Path("nowhere.yaml")) == "nowhere.yaml: no such settings file"


def test_a_nested_variable_sets_one_field(monkeypatch):
    monkeypatch.setenv("POINTSMAN_ENGINE__SLOTS", "7")
    monkeypatch.setenv("POINTSMAN_PATHS__MODELS", "/models")
    settings = load()
    assert (settings.engine.slots, settings.paths.models) == (7, Path("/models"))


def test_a_variable_may_set_a_list_and_a_section_as_json(monkeypatch):
    monkeypatch.setenv("POINTSMAN_ROUTING__CLOUD_TASK_TYPES", '["poetry", "law"]')
    monkeypatch.setenv("POINTSMAN_LOG", json.dumps({"level": "error"}))
    settings = load()
    assert settings.routing.cloud_task_types == ["poetry", "law"]
    assert settings.log.level == "error"


def test_the_environment_wins_over_the_file_field_by_field(monkeypatch):
    write("engine: {slots: 2, queue_limit: 3}\n")
    monkeypatch.setenv("POINTSMAN_ENGINE__SLOTS", "7")
    settings = load()
    assert (settings.engine.slots, settings.engine.queue_limit) == (7, 3)


def test_the_caller_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("POINTSMAN_ENGINE__SLOTS", "7")
    assert load(engine={"slots": 5}).engine.slots == 5


def test_settings_are_frozen():
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.engine.slots = 9  # type: ignore[misc]


# Refused


@pytest.mark.parametrize(
    "name", ["POINTSMAN_SEVER__ADDRESS", "POINTSMAN_SERVER__ADRESS", "POINTSMAN_SERVER_ADDRESS"]
)
def test_an_unknown_variable_is_refused_by_its_name(monkeypatch, name):
    monkeypatch.setenv(name, "127.0.0.1:1")
    message = refusal()
    assert name in message
    assert "docs/configuration.md" in message


def test_an_unknown_key_within_a_json_variable_is_refused(monkeypatch):
    monkeypatch.setenv("POINTSMAN_SERVER", '{"adress": "x"}')
    assert "server.adress" in refusal()


@pytest.mark.parametrize(
    ("text", "key"), [("sever: {}\n", "sever"), ("server: {adress: x}\n", "server.adress"), ("x: 1\n", "x")]
)
def test_an_unknown_key_of_the_file_is_refused_by_its_name(text, key):
    write(text)
    message = refusal()
    assert f"{key}: Extra inputs are not permitted" in message
    assert "pointsman.yaml" in message


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("engine: {slots: 0}\n", "engine.slots", "0"),
        ("engine: {slots: many}\n", "engine.slots", "'many'"),
        ("server: {grace_s: -1}\n", "server.grace_s", "-1"),
        ("server: {grace_s: .nan}\n", "server.grace_s", "nan"),
        ("server: {grace_s: .inf}\n", "server.grace_s", "inf"),
        ("routing: {rejection: 1}\n", "routing.rejection", "1"),
        ("routing: {rejection: .nan}\n", "routing.rejection", "nan"),
        ("routing: {on_no_cloud: cloud}\n", "routing.on_no_cloud", "'cloud'"),
        ("log: {level: loud}\n", "log.level", "'loud'"),
        ("log: 5\n", "log", "5"),
    ],
)
def test_a_bad_value_of_the_file_is_named_with_its_key(text, key, value):
    write(text)
    message = refusal()
    assert f"{key}: " in message
    assert f"(got {value})" in message


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("POINTSMAN_ENGINE__SLOTS", "many", "engine.slots"),
        ("POINTSMAN_ROUTING__REJECTION", "2", "routing.rejection"),
        ("POINTSMAN_ROUTING__CLOUD_TASK_TYPES", "reasoning", "cloud_task_types"),
    ],
)
def test_a_bad_value_of_the_environment_is_named_with_its_key(monkeypatch, name, value, key):
    monkeypatch.setenv(name, value)
    message = refusal()
    assert key in message.lower()
    assert value in message


def test_all_bad_values_are_named_at_once():
    write("engine: {slots: 0}\nlog: {level: loud}\nsever: {}\n")
    message = refusal()
    assert all(key in message for key in ("engine.slots", "log.level", "sever"))


@pytest.mark.parametrize(
    "content", [b"server: [", b"- a list\n", b"text", b"\xff\xfe\x00", b"a: &b c\nd: *e\n"]
)
def test_a_file_that_is_no_yaml_mapping_is_refused_by_its_name(content):
    write(content)
    assert "pointsman.yaml" in refusal()


# Secrets


def test_a_key_shows_in_no_representation_of_the_settings(monkeypatch):
    monkeypatch.setenv("POINTSMAN_CLOUD__API_KEY", SECRET)
    settings = load()
    assert settings.cloud.api_key.get_secret_value() == SECRET
    shown = [repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()]
    assert not [text for text in shown if SECRET in text]


@pytest.mark.parametrize(
    "text",
    [
        "cloud: {api_key: 1234567890}\n",
        "cloud: {api_key: [sk-1234567890]}\n",
        "cloud: {apikey: sk-1234567890}\n",
    ],
)
def test_a_key_that_is_given_wrongly_is_not_shown_in_the_refusal(text):
    write(text)
    message = refusal()
    assert "cloud.api" in message
    assert "1234567890" not in message


def test_a_child_gets_the_environment_without_secrets(monkeypatch):
    monkeypatch.setenv("POINTSMAN_CLOUD__API_KEY", SECRET)
    monkeypatch.setenv("pointsman_cloud__api_key", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("SOMETHING_ELSE", "kept")
    environment = child_environment()
    assert SECRET not in environment.values()
    assert not [name for name in environment if name.upper().startswith("POINTSMAN_")]
    assert environment["SOMETHING_ELSE"] == "kept"


def test_idle_threads_of_a_child_sleep():
    environment = child_environment()
    assert (environment["OMP_WAIT_POLICY"], environment["GOMP_SPINCOUNT"]) == ("PASSIVE", "0")


# What is documented, and who reads


def test_every_variable_has_a_description():
    variables = known_variables()
    assert "POINTSMAN_CLOUD__API_KEY" in variables
    assert [name for name, text in variables.items() if not text] == []


def test_only_settings_and_client_read_the_environment():
    package = Path(pointsman.__file__).parent
    readers = {
        path.relative_to(package).as_posix() for path in package.rglob("*.py") if _reads_environment(path)
    }
    assert readers == {"settings.py", "client.py"}  # a client has no settings


def _reads_environment(path: Path) -> bool:
    reads = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in reads:
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "os" and reads & {a.name for a in node.names}:
            return True
    return False
