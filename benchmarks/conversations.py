"""Scripted conversations and long prompts, through the package's own encoder, catalog and rules.

benchmarks/conversations/test.yaml is read here and nowhere else, to print the table; nothing is chosen by it.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from threadpoolctl import threadpool_limits
from tokenizers import Tokenizer

import report
from corpora import ABOUT, CLINC, check_data, read_clinc
from pointsman.artifacts.store import ArtifactStore
from pointsman.catalog.store import FileStore
from pointsman.embedding.build import TOKENIZER
from pointsman.embedding.cache import EmbeddingCache
from pointsman.embedding.encoder import Rows
from pointsman.embedding.load import load_encoder
from pointsman.embedding.onnx_encoder import MAX_TOKENS
from pointsman.router.conversation import HYSTERESIS, Conversation
from pointsman.router.leaning import fit_leaning, read_phrases
from pointsman.router.sessions import Sessions
from pointsman.router.snapshot import Matcher, build_snapshot
from pointsman.sections import Encoder
from pointsman.settings import Settings, load
from pointsman.values.catalog import CLOUD, Catalog
from pointsman.values.decision import Evidence

ROOT = Path(__file__).parent.parent
FOLDER = Path(__file__).parent / "conversations"
OPENING, FOLLOW_UP, CHANGE = "opening", "follow_up", "change"
KINDS = (FOLLOW_UP, CHANGE, OPENING)
HELD_OUT = 3
"""Exemplars an intent that are left out of the index to be pasted into long texts."""
_WITH_DATA = "With --data, prompts of CLINC150 are put after the openings, too.\n"
_ANSWERS = ("yes", "no", "maybe", "repeat")
"""Intents of CLINC150 that only make sense after another turn."""


@dataclass(frozen=True, slots=True)
class Said:
    """A turn of the user: its text, where it belongs, and whether it opens, follows up or changes."""

    text: str
    target: str
    kind: str


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured with."""

    cache: EmbeddingCache
    matcher: Matcher
    conversation: Conversation

    def row(self, text: str) -> Rows:
        """Return the row (d,) of a text."""
        return self.cache.encode([text])[0]


Scripts = dict[str, tuple[Said, ...]]
Method = Callable[[Setting, Sequence[str]], str]
"""The user's texts so far to a target."""


def read_scripts(path: Path) -> Scripts:
    """Read scripted conversations: the user's turns by the name of the conversation.

    Raises:
        ValueError: a turn whose kind and target contradict the turn before it, or a name that is there twice.

    """
    scripts: Scripts = {}
    for conversation in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
        name = conversation["name"]
        users = [turn for turn in conversation["turns"] if "user" in turn]
        said = tuple(Said(turn["user"], turn["target"], turn["kind"]) for turn in users)
        before = None
        for turn in said:
            moved = None if before is None else turn.target != before
            if turn.kind != {None: OPENING, True: CHANGE, False: FOLLOW_UP}[moved]:
                place = f"{path.name}: {name}: {turn.text!r}"
                raise ValueError(f"{place}: {turn.kind} with target {turn.target} after {before}")
            before = turn.target
        if name in scripts:
            raise ValueError(f"{path.name}: {name} is there twice")
        scripts[name] = said
    return scripts


def load_setting() -> Setting:
    """Return the shipped encoder, catalog and rule."""
    settings = load(encoder=Encoder(threads=1))
    encoder = load_encoder(settings.encoder, _store(settings))
    cache = EmbeddingCache(encoder, settings.paths.cache)
    return setting_of(FileStore(ROOT / "intents", ROOT / "specialists").load(), cache)


def setting_of(catalog: Catalog, cache: EmbeddingCache) -> Setting:
    """Return the rule over another catalog."""
    with threadpool_limits(limits=1):
        matcher = build_snapshot(catalog, cache, "", load().routing, "cloud").matcher
        assert matcher is not None
        phrases = read_phrases()
        leaning, standing = cache.encode(phrases.leaning), cache.encode(phrases.standing)
        fitted = fit_leaning(leaning, standing, matcher.index.rows)
    return Setting(cache, matcher, Conversation(matcher, fitted))


def target_of(evidence: Evidence) -> str:
    """Return where evidence sends a turn."""
    return evidence.target if evidence.accepted and evidence.target is not None else CLOUD


def last_turn(setting: Setting, texts: Sequence[str]) -> str:
    """Route the last turn as if nothing had been said before."""
    return target_of(setting.matcher.match(setting.row(texts[-1])))


def joined(setting: Setting, texts: Sequence[str]) -> str:
    """Route all turns of the user as one text."""
    return target_of(setting.matcher.match(setting.row("\n".join(texts))))


def full_messages(setting: Setting, texts: Sequence[str]) -> str:
    """Route by the rule; the caller sends the whole conversation."""
    return target_of(setting.conversation.read(setting.cache.encode(texts)).evidence)


def by_sessions(sessions: Sessions) -> Method:
    """Route by the rule; the caller sends the last turn and a session id: here the opening."""

    def route(setting: Setting, texts: Sequence[str]) -> str:
        topic = sessions.recall(texts[0], 0.0)
        turn = setting.conversation.read(setting.row(texts[-1])[None, :], topic)
        sessions.remember(texts[0], turn.topic, 0.0)
        return target_of(turn.evidence)

    return route


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares in [0, 1] by kind of turn.

    right: turns that reached the target of the script
    moved: follow-ups routed as the turn before them was, and changes routed otherwise
    """

    right: dict[str, float]
    moved: dict[str, float]


def measure(setting: Setting, scripts: Scripts, method: Method) -> Figures:
    """Run a method over conversations, turn by turn."""
    right: dict[str, list[bool]] = defaultdict(list)
    moved: dict[str, list[bool]] = defaultdict(list)
    for said in scripts.values():
        before = ""
        for i, turn in enumerate(said):
            target = method(setting, [s.text for s in said[: i + 1]])
            right[turn.kind].append(target == turn.target)
            moved[turn.kind].append((target == before) == (turn.kind == FOLLOW_UP))
            before = target
    return Figures(_means(right), _means(moved))


def main() -> None:
    arguments = _parse()
    with threadpool_limits(limits=1):
        setting = load_setting()
        parts = [_conversations(setting), _others(setting, arguments.data), _long_prompts(setting)]
    body = "\n\n".join(part for part in parts if part)
    print(body)
    if arguments.out:
        facts = f"Versions: {report.versions('faiss-cpu', 'onnxruntime', 'numpy')}"
        data = " --data DIR" if arguments.data else ""
        command = f"python benchmarks/conversations.py{data}"
        report.write(arguments.out, "Conversations and long prompts", f"{facts}\n\n{body}", command)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_WITH_DATA + ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with CLINC150")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown file to write, too")
    arguments = parser.parse_args()
    if arguments.data:
        check_data(parser, arguments.data, CLINC)
    return arguments


def _store(settings: Settings) -> ArtifactStore:
    return ArtifactStore(settings.paths.models, Path.cwd())


def _means(values: dict[str, list[bool]]) -> dict[str, float]:
    return {kind: float(np.mean(shares)) for kind, shares in values.items()}


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


_CONVERSATIONS = f"""\
In percent of the user's turns. stays, leaves: routed as the turn before was, or otherwise; right: at the target \
that the script states, so a follow-up to a turn that was routed wrongly counts as wrong though it stays.

- last turn only: what routing does without a memory.
- all turns joined: the user's turns as one text.
- rule, full messages: `Conversation.read` over the user's turns, hysteresis {HYSTERESIS}.
- rule, session id: only the last turn is sent; `Sessions` remembers the topic.
- dev: what the rule was chosen on. test: written before it, read for this table only."""


def _conversations(setting: Setting) -> str:
    methods = {
        "last turn only": last_turn,
        "all turns joined": joined,
        "**rule, full messages**": full_messages,
        "**rule, session id**": by_sessions(Sessions(1000, 1.0)),
    }
    rows, counted = [], []
    for split in ("dev", "test"):
        scripts = read_scripts(FOLDER / f"{split}.yaml")
        kinds = [turn.kind for said in scripts.values() for turn in said]
        counts = ", ".join(f"{kinds.count(kind)} {kind.replace('_', '-')}s" for kind in KINDS)
        counted.append(f"{split}: {len(scripts)} conversations, {counts}.")
        for name, method in methods.items():
            figures = measure(setting, scripts, method)
            cells = [figures.moved[FOLLOW_UP], figures.right[FOLLOW_UP], figures.moved[CHANGE]]
            cells += [figures.right[CHANGE], figures.right[OPENING]]
            rows.append([f"{split}: {name}", *map(_percent, cells)])
    headers = ["", "follow-ups: stays", "right", "changes: leaves", "right", "openings: right"]
    return f"## Conversations\n\n{' '.join(counted)}\n\n{report.table(headers, rows)}\n\n{_CONVERSATIONS}"


_OTHERS = """\
Each prompt after each opening of the test file that is routed to a specialist; CLINC150's validation split. \
Out of scope: share that does not stay with the specialist. Answers: the intents yes, no, maybe and repeat, \
share that stays."""


def _others(setting: Setting, data: Path | None) -> str:
    if data is None:
        return ""
    clinc = read_clinc(data)
    openings = [said[0] for said in read_scripts(FOLDER / "test.yaml").values()]
    local = [turn.text for turn in openings if last_turn(setting, [turn.text]) != CLOUD]
    strays = [text for text, _ in clinc["oos_val"]]
    answers = [text for text, intent in clinc["val"] if intent in _ANSWERS]
    rows = []
    for name, method in (("last turn only", last_turn), ("**rule**", full_messages)):
        away = 1 - _staying(setting, local, strays, method)
        rows.append([name, _percent(away), _percent(_staying(setting, local, answers, method))])
    headers = ["", f"{len(strays)} out-of-scope prompts leave", f"{len(answers)} answers stay"]
    return f"## Prompts by others\n\n{report.table(headers, rows)}\n\n{_OTHERS}"


def _staying(setting: Setting, openings: Sequence[str], texts: Sequence[str], method: Method) -> float:
    stays = []
    for opening in openings:
        before = method(setting, [opening])
        stays += [method(setting, [opening, text]) == before for text in texts]
    return float(np.mean(stays))


# --- long prompts -------------------------------------------------------------------------------

INNER = MAX_TOKENS - 2
"""Tokens of a text that the encoder reads, without the two that mark begin and end."""

_LONG = f"""\
In percent of the prompts that belong to a specialist: routed to it / of all prompts: routed to a wrong \
specialist. A prompt stands alone, before a long text, after one, or between two; the texts are of other kinds \
and longer than the encoder reads. Prompts: {HELD_OUT} exemplars an intent that are left out of the index, and the \
openings of the conversations. dev: what the rule was chosen on; test: other exemplars, texts and openings.

- cut off: the first {INNER} tokens, what sentence-transformers does.
- first 128, last 126: one text of both.
- windows: the mean of the rows of consecutive windows of {INNER} tokens, weighted by length.
- first 16, last 16: as shipped (`embedding/long_text.py`)."""


def _long_prompts(setting: Setting) -> str:
    tokenizer = Tokenizer.from_file(str(_store(load()).fetch(TOKENIZER)))
    tokenizer.no_truncation()
    texts = yaml.safe_load((FOLDER / "filler.yaml").read_text(encoding="utf-8"))
    rows = []
    for split, filler, seed in (("dev", texts["chosen_on"], 0), ("test", texts["measured_on"], 1)):
        kept, held = _hold_out(setting.matcher.catalog, seed)
        matcher = setting_of(kept, setting.cache).matcher
        openings = [said[0] for said in read_scripts(FOLDER / f"{split}.yaml").values()]
        prompts = held + [(turn.text, turn.target) for turn in openings]
        for name, pieces in _RULES.items():
            cells = [
                _long_cell(setting.cache, matcher, tokenizer, pieces, placed)
                for placed in _placed(prompts, [text.strip() for text in filler])
            ]
            rows.append([f"{split}: {name}", *cells])
    table = report.table(["", "alone", "before a text", "after a text", "between two"], rows)
    return f"## Prompts beyond {MAX_TOKENS} tokens\n\n{table}\n\n{_LONG}"


def _hold_out(catalog: Catalog, seed: int) -> tuple[Catalog, list[tuple[str, str]]]:
    generator = np.random.default_rng(seed)
    intents, held = [], []
    for intent in catalog.intents:
        order = generator.permutation(len(intent.exemplars))
        held += [(intent.exemplars[i], intent.target) for i in order[:HELD_OUT]]
        intents.append(
            replace(intent, exemplars=tuple(intent.exemplars[i] for i in sorted(order[HELD_OUT:])))
        )
    return replace(catalog, intents=tuple(intents)), held


Prompts = list[tuple[str, str]]


def _placed(prompts: Prompts, filler: Sequence[str]) -> list[Prompts]:
    """Return the prompts alone, before, after and between texts."""
    forms = ("{p}", "{p}\n\n{a}", "{a}\n\n{p}", "{a}\n\n{p}\n\n{b}")
    return [
        [
            (form.format(p=text, a=filler[i % len(filler)], b=filler[(i + 1) % len(filler)]), target)
            for i, (text, target) in enumerate(prompts)
        ]
        for form in forms
    ]


Pieces = list[str]


def _cut_off(text: str, spans: list[tuple[int, int]]) -> Pieces:
    return [text[: spans[INNER - 1][1]]]


def _head_and_tail(text: str, spans: list[tuple[int, int]]) -> Pieces:
    return [f"{text[: spans[127][1]]} {text[spans[-126][0] :]}"]


def _windows(text: str, spans: list[tuple[int, int]]) -> Pieces:
    windows = (spans[i : i + INNER] for i in range(0, len(spans), INNER))
    return [text[window[0][0] : window[-1][1]] for window in windows]


def _shipped(text: str, _spans: list[tuple[int, int]]) -> Pieces:
    return [text]


_RULES = {
    "cut off": _cut_off,
    "first 128, last 126": _head_and_tail,
    "windows": _windows,
    "**first 16, last 16**": _shipped,
}


def _long_cell(
    cache: EmbeddingCache,
    matcher: Matcher,
    tokenizer: Tokenizer,
    pieces: Callable[[str, list[tuple[int, int]]], Pieces],
    prompts: Prompts,
) -> str:
    right, wrong = [], []
    for text, target in prompts:
        spans = tokenizer.encode(text, add_special_tokens=False).offsets
        parts = [text] if len(spans) <= INNER else pieces(text, spans)
        weights = np.array([len(tokenizer.encode(part).ids) for part in parts], np.float32)
        row = weights @ cache.encode(parts)
        found = target_of(matcher.match(row / np.linalg.norm(row)))
        if target != CLOUD:
            right.append(found == target)
        wrong.append(found not in {target, CLOUD})
    return f"{_percent(float(np.mean(right)))} / {_percent(float(np.mean(wrong)))}"


if __name__ == "__main__":
    main()
