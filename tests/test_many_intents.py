"""A thousand intents of two exemplars: thin, but served."""

import asyncio
from itertools import product

from harness import Site, running, until, write_intent, write_specialist

VERBS = (
    "cancel", "renew", "pause", "upgrade", "downgrade", "lend", "sell", "rent", "insure", "repair", "clean", "paint",
    "weigh", "measure", "photograph", "wrap", "ship", "track", "return", "replace", "lock", "unlock", "charge",
    "rename", "share", "hide", "archive", "translate", "print", "scan", "sign", "audit", "tag", "count", "sort",
    "merge", "split", "freeze", "register", "inspect",
)  # fmt: skip
THINGS = (
    "bicycle", "passport", "subscription", "lawn mower", "violin", "invoice", "greenhouse", "laptop", "parking permit",
    "sailing boat", "gym membership", "oven", "tent", "wedding cake", "credit card", "server", "library book",
    "telescope", "horse", "flat", "painting", "contract", "pension", "dishwasher", "drone",
)  # fmt: skip


async def test_a_thousand_intents_of_two_exemplars_are_served_and_change_while_they_are(site: Site) -> None:
    write_specialist(site.specialists, "support")
    write_specialist(site.specialists, "general")
    pairs = list(product(VERBS, THINGS))
    assert len(pairs) == 1000
    for verb, thing in pairs:
        exemplars = [f"{verb} my {thing}", f"please {verb} the {thing} for me"]
        write_intent(site.intents, f"{verb}_{thing}".replace(" ", "_"), "support", exemplars)
    async with running(site.settings(), engines=False, watch=True) as server:
        catalog = server.core.catalogs.catalog
        assert catalog.problems == ()
        assert len(catalog.intents) == 1000
        asked = pairs[::50]
        found = await asyncio.gather(
            *(server.client.route(f"could you {verb} our {thing}") for verb, thing in asked)
        )
        right = [
            r.decision.intent == f"{v}_{t}".replace(" ", "_") for r, (v, t) in zip(found, asked, strict=True)
        ]
        assert sum(right) >= 0.9 * len(asked)
        far = await server.client.route("how tall is the eiffel tower")
        assert far.decision.specialist == "general"
        write_intent(
            site.intents, "eiffel", "support", ["how tall is the eiffel tower", "height of that tower"]
        )
        await until(lambda: len(server.core.catalogs.catalog.intents) == 1001)
        assert (await server.client.route("how tall is the eiffel tower")).decision.intent == "eiffel"
