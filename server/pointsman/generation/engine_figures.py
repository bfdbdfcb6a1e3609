"""A running engine to what a listing shows of it."""

from pointsman.generation.engine_process import EngineProcess
from pointsman.values.catalog import EngineFigures


def figures_of(engine: EngineProcess, batch: str) -> EngineFigures:
    """Return the engine's figures; the hit rate is that of one adapter at its scale."""
    admission = engine.admission
    return EngineFigures(
        engine=engine.name,
        resident_bytes=engine.resident_bytes,
        slots=admission.slots,
        busy_slots=admission.held,
        waiting=admission.waiting,
        tokens_per_s=admission.tokens_per_s,
        hit_rate=admission.tally(batch).hit_rate,
    )
