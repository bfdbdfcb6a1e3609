"""Settings and a catalog to the `Basis` of a promise: with another one, prompts are judged differently."""

from pointsman.decision.calibrate import SCORING
from pointsman.sections import Routing
from pointsman.values.catalog import MID, Catalog
from pointsman.values.promise import Basis


def basis_of(routing: Routing, catalog: Catalog) -> Basis:
    """Return what a promise depends on beside encoder and exemplars."""
    points_there = any(intent.target == MID for intent in catalog.intents)
    return Basis(routing.rejection, routing.out_of_scope, routing.mid if points_there else "", SCORING)
