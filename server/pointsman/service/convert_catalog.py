"""Intents, specialists and problems: messages to values, and back."""

from google.protobuf.timestamp_pb2 import Timestamp

from pointsman.v1 import catalog_pb2 as pb
from pointsman.values.catalog import (
    Adapter,
    Artifact,
    Catalog,
    EngineFigures,
    EngineState,
    FewShot,
    Intent,
    Output,
    Problem,
    Specialist,
    SpecialistStatus,
)
from pointsman.values.rollout import Stage, Tally, Trial

ENGINE_STATES = {state: f"ENGINE_STATE_{state.name}" for state in EngineState}
ROLLOUT_STAGES = {stage: f"ROLLOUT_STAGE_{stage.name}" for stage in Stage}


def intent_of(message: pb.Intent) -> Intent:
    """Return an intent; the store checks it."""
    return Intent(
        name=message.name,
        target=message.target,
        exemplars=tuple(message.exemplars),
        description=message.description,
        negatives=tuple(message.negatives),
        # A float32 of the wire, as a person would write it.
        threshold=round(message.threshold, 6) if message.HasField("threshold") else None,
    )


def intent_message(intent: Intent) -> pb.Intent:
    """Return an intent as a message."""
    return pb.Intent(
        name=intent.name,
        description=intent.description,
        target=intent.target,
        exemplars=intent.exemplars,
        negatives=intent.negatives,
        threshold=intent.threshold,
    )


def specialist_of(message: pb.Specialist) -> Specialist:
    """Return a specialist, unset fields at their defaults; the store checks it."""
    defaults = Specialist("", Artifact("", ""))
    sampling = message.sampling
    adapter = None
    if message.HasField("adapter"):
        artifact = message.adapter.artifact
        scale = round(message.adapter.scale, 6) if message.adapter.HasField("scale") else 1.0
        adapter = Adapter(Artifact(artifact.uri, artifact.sha256), scale)
    return Specialist(
        name=message.name,
        base=Artifact(message.base.uri, message.base.sha256),
        description=message.description,
        adapter=adapter,
        system_prompt=message.system_prompt,
        few_shot=tuple(FewShot(shot.user, shot.assistant) for shot in message.few_shot),
        context_tokens=message.context_tokens
        if message.HasField("context_tokens")
        else defaults.context_tokens,
        max_output_tokens=(
            message.max_output_tokens if message.HasField("max_output_tokens") else defaults.max_output_tokens
        ),
        temperature=round(sampling.temperature, 6)
        if sampling.HasField("temperature")
        else defaults.temperature,
        top_p=round(sampling.top_p, 6) if sampling.HasField("top_p") else defaults.top_p,
        stop=tuple(message.stop),
        engine=message.engine or defaults.engine,
        task_types=tuple(message.task_types),
        output=_output_of(message.output),
        history_turns=message.history_turns if message.HasField("history_turns") else None,
        cascade=message.cascade if message.HasField("cascade") else defaults.cascade,
    )


def _output_of(message: pb.Output) -> Output:
    defaults = Output()
    return Output(
        format=message.format or defaults.format,
        schema=message.json_schema,
        pattern=message.pattern,
        choices=tuple(message.choices),
        grammar=message.grammar,
        constrained=message.constrained or defaults.constrained,
    )


def specialist_message(specialist: Specialist) -> pb.Specialist:
    """Return a specialist as a message."""
    adapter = specialist.adapter
    return pb.Specialist(
        name=specialist.name,
        description=specialist.description,
        base=_artifact_message(specialist.base),
        adapter=None
        if adapter is None
        else pb.Adapter(artifact=_artifact_message(adapter.artifact), scale=adapter.scale),
        system_prompt=specialist.system_prompt,
        few_shot=[pb.FewShotExample(user=s.user, assistant=s.assistant) for s in specialist.few_shot],
        context_tokens=specialist.context_tokens,
        max_output_tokens=specialist.max_output_tokens,
        sampling=pb.SamplingDefaults(temperature=specialist.temperature, top_p=specialist.top_p),
        stop=specialist.stop,
        engine=specialist.engine,
        task_types=specialist.task_types,
        output=_output_message(specialist.output),
        history_turns=specialist.history_turns,
        cascade=specialist.cascade,
    )


def _output_message(output: Output) -> pb.Output | None:
    if output == Output():
        return None
    return pb.Output(
        format=output.format,
        json_schema=output.schema,
        pattern=output.pattern,
        choices=output.choices,
        grammar=output.grammar,
        constrained=output.constrained,
    )


def status_message(status: SpecialistStatus, catalog: Catalog) -> pb.SpecialistStatus:
    """Return the state of a specialist as a message."""
    return pb.SpecialistStatus(
        specialist=specialist_message(status.specialist),
        engine_state=ENGINE_STATES[status.state],
        intents=[i.name for i in catalog.intents if i.target == status.specialist.name],
        error=status.error,
        loaded=status.loaded,
        figures=_figures_message(status.figures) if status.figures else None,
        trial=_trial_message(status.trial) if status.trial else None,
    )


def health_message(catalog: Catalog, version: str) -> pb.CatalogHealth:
    """Return the health of a catalog as a message."""
    loaded_at = Timestamp()
    loaded_at.FromDatetime(catalog.loaded_at)
    return pb.CatalogHealth(
        version=version,
        loaded_at=loaded_at,
        problems=[_problem_message(problem) for problem in catalog.problems],
        intents=len(catalog.intents),
        exemplars=sum(len(intent.exemplars) for intent in catalog.intents),
        specialists=len(catalog.specialists),
    )


def _figures_message(figures: EngineFigures) -> pb.EngineFigures:
    return pb.EngineFigures(
        engine=figures.engine,
        resident_bytes=figures.resident_bytes,
        slots=figures.slots,
        busy_slots=figures.busy_slots,
        waiting=figures.waiting,
        tokens_per_s=figures.tokens_per_s,
        hit_rate=figures.hit_rate,
    )


def _trial_message(trial: Trial) -> pb.Trial:
    return pb.Trial(
        stage=ROLLOUT_STAGES[trial.stage],
        candidate=_tally_message(trial.candidate),
        live=_tally_message(trial.live),
        same=_tally_message(trial.same),
    )


def _tally_message(tally: Tally) -> pb.Tally:
    return pb.Tally(answers=tally.answers, successes=tally.successes)


def _problem_message(problem: Problem) -> pb.Problem:
    return pb.Problem(
        file=problem.file,
        line=problem.line,
        field=problem.field,
        value=problem.value,
        message=problem.message,
    )


def _artifact_message(artifact: Artifact) -> pb.Artifact:
    return pb.Artifact(uri=artifact.uri, sha256=artifact.sha256)
