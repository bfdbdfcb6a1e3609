"""Environment and one file to typed settings. The only module that reads the environment.

Order: environment (`POINTSMAN_SERVER__ADDRESS`), then the file (`pointsman.yaml`, or what
`POINTSMAN_CONFIG` or `--config` names), then the defaults below. Unknown keys are refused in both.
"""

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from pointsman.errors import ConfigError
from pointsman.sections import (
    Audit,
    Cascade,
    Cloud,
    Conversations,
    Encoder,
    Engine,
    Ledger,
    Log,
    Paths,
    Policy,
    Registration,
    Routing,
    Server,
    Shadow,
    Telemetry,
)

PREFIX = "POINTSMAN_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
CLIENT_VARIABLES = {f"{PREFIX}{name}" for name in ("TOKEN", "CA", "CERTIFICATE", "KEY")}
"""What the command line shows a server; see `client.Access`."""
DEFAULT_FILE = Path("pointsman.yaml")


class Settings(BaseSettings):
    """All settings, checked."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, yaml_file_encoding="utf-8"
    )

    server: Server = Server()
    paths: Paths = Field(default_factory=Paths)
    registration: Registration = Registration()
    encoder: Encoder = Field(default_factory=Encoder)
    routing: Routing = Routing()
    conversations: Conversations = Conversations()
    engine: Engine = Field(default_factory=Engine)
    cloud: Cloud = Cloud()
    cascade: Cascade = Cascade()
    shadow: Shadow = Shadow()
    policy: Policy = Policy()
    audit: Audit = Audit()
    ledger: Ledger = Field(default_factory=Ledger)
    telemetry: Telemetry = Telemetry()
    log: Log = Log()

    @property
    def cloud_models(self) -> tuple[str, ...]:
        """The models of the cloud that may be asked."""
        mid = self.routing.mid_tier
        named = (self.cloud.model, mid.model if mid else None)
        return tuple(dict.fromkeys(model for model in named if model))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file: a container's environment has the last word."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls)


def load(config: Path | None = None, **sections: Any) -> Settings:
    """Return the settings; `sections` override everything (tests and command-line flags).

    Raises:
        ConfigError: each unknown key and bad value, with where it came from.

    """
    _refuse_unknown_variables()
    named = config or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    if named is not None and not named.is_file():
        raise ConfigError(f"{named}: no such settings file")
    file = named or DEFAULT_FILE

    class FromFile(Settings):
        model_config = SettingsConfigDict(yaml_file=file)

    try:
        settings = FromFile(**sections)
    except ValidationError as error:
        lines = [_described(item) for item in error.errors(include_url=False)]
        source = f"{file} or {PREFIX}* variables" if file.is_file() else f"{PREFIX}* variables"
        raise ConfigError("\n".join(f"settings ({source}): {line}" for line in lines)) from None
    except SettingsError as error:
        raise ConfigError(_not_json(error)) from None
    except (ValueError, OSError, yaml.YAMLError) as error:  # not YAML, not readable
        raise ConfigError(f"settings ({file}): {error}") from None
    if settings.routing.mid.startswith("cloud:") and not settings.cloud.model:
        raise ConfigError(
            f"settings: routing.mid is {settings.routing.mid!r}, but no cloud is configured; set cloud.model"
        )
    if settings.shadow.share and not settings.ledger.enabled:
        raise ConfigError(
            f"settings: shadow.share is {settings.shadow.share}, but no ledger keeps what comes of it; set ledger.enabled"
        )
    return settings


def known_variables() -> dict[str, str]:
    """Return every environment variable that is read, with its description."""
    return {
        f"{PREFIX}{section}__{key}".upper(): info.description or ""
        for section, field in Settings.model_fields.items()
        for key, info in _fields_of(field.annotation).items()
    }


def child_environment() -> dict[str, str]:
    """Return the environment of an engine's process: ours, without its secrets, with calm OpenMP threads.

    Spinning OpenMP threads on a busy machine slowed decoding by two orders of magnitude
    (docs/operations.md), so idle threads sleep.
    """
    own = {
        key: value
        for key, value in os.environ.items()
        if not key.upper().startswith(PREFIX)
        and not key.upper().endswith(("_KEY", "_TOKEN", "_SECRET", "_PASSWORD"))
    }
    return own | {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


def _not_json(error: SettingsError) -> str:
    value = getattr(error.__cause__, "doc", None)
    names = [k for k, v in os.environ.items() if k.upper().startswith(PREFIX) and v == value]
    if not names:
        return f"settings: {error}"
    shown = "" if any(name.upper() == f"{PREFIX}CLOUD" for name in names) else f" (got {value!r})"
    return f"settings: {', '.join(names)}: not JSON{shown}"


def _described(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    # What stands under an unknown key may be a secret under a misspelled name.
    secret = item["type"] == "extra_forbidden" or item["loc"][:2] in {
        ("cloud", "api_key"),
        ("audit", "key"),
        ("ledger", "url"),
    }
    return f"{key}: {item['msg']}" + ("" if secret else f" (got {item['input']!r})")


def _fields_of(annotation: Any) -> dict[str, Any]:
    return dict(annotation.model_fields)


def _refuse_unknown_variables() -> None:
    known = {
        *known_variables(),
        CONFIG_VARIABLE,
        *CLIENT_VARIABLES,
        *(f"{PREFIX}{name}".upper() for name in Settings.model_fields),
    }
    unknown = sorted(k for k in os.environ if k.upper().startswith(PREFIX) and k.upper() not in known)
    if unknown:
        raise ConfigError(f"unknown environment variables: {', '.join(unknown)}; see docs/configuration.md")
