"""The specialists of one base to the engine that answers for them. Runs nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pointsman.generation.engine_files import ModelFiles
from pointsman.generation.engine_spec import EngineSpec
from pointsman.sections import Engine as EngineSettings
from pointsman.values.catalog import Specialist

Key = tuple[str, str]  # engine kind, sha256 of the base


def key_of(specialist: Specialist) -> Key:
    """Return which engine a specialist needs."""
    return specialist.engine, specialist.base.sha256


def adapter_of(specialist: Specialist) -> str:
    """Return the sha256 of its adapter; '' for the bare base."""
    return specialist.adapter.artifact.sha256 if specialist.adapter else ""


def batch_of(specialist: Specialist) -> str:
    """Return its adapter and scale; '' for the bare base. Requests that differ in it share no batch and no cache."""
    return f"{adapter_of(specialist)} x {specialist.adapter.scale!r}" if specialist.adapter else ""


def scales_of(specialist: Specialist, adapters: Sequence[str]) -> tuple[float, ...]:
    """Return the scale of each adapter of an engine under which the specialist answers."""
    sha256 = adapter_of(specialist)
    scale = specialist.adapter.scale if specialist.adapter else 0.0
    return tuple(scale if held == sha256 else 0.0 for held in adapters)


def is_held(specialist: Specialist, adapters: Sequence[str]) -> bool:
    """Return whether an engine with these adapters can answer for it."""
    return specialist.adapter is None or specialist.adapter.artifact.sha256 in adapters


def choose(
    group: Sequence[ModelFiles], held: Sequence[str], used: Mapping[str, int], asked: str, most: int
) -> list[ModelFiles]:
    """Return those to load: the adapter that is asked for, those that are loaded, and the last used.

    used: adapters by their last use
    """
    adapters = list(dict.fromkeys(adapter_of(f.specialist) for f in group if f.adapter))
    # The others make room in the order of their use.
    adapters.sort(key=lambda sha256: (sha256 != asked, sha256 not in held, -used.get(sha256, 0)))
    chosen = set(adapters[:most])
    return [f for f in group if not f.adapter or adapter_of(f.specialist) in chosen]


def specification(
    loaded: Sequence[ModelFiles], group: Sequence[ModelFiles], settings: EngineSettings
) -> tuple[EngineSpec, tuple[str, ...]]:
    """Return the engine of `loaded`; what else is in the group may be loaded later, and changes nothing else."""
    adapters = {adapter_of(files.specialist): files.adapter for files in loaded if files.adapter}
    order = tuple(sorted(adapters))
    kind = group[0].specialist.engine
    native = settings.llama_server if kind == "llama_cpp" else None
    turns = len({adapter_of(files.specialist) for files in loaded})
    spec = EngineSpec(
        kind="llama_server" if native else kind,
        model=group[0].base,
        adapters=tuple(adapters[sha256] for sha256 in order),
        context_tokens=max(files.specialist.context_tokens for files in group),
        slots=settings.slots if kind == "llama_cpp" else 1,
        threads=settings.threads,
        binary=native,
    )
    if spec.takes_turns:
        spec = replace(spec, spare_slots=min(settings.spare_slots, turns - 1))
    return spec, order
