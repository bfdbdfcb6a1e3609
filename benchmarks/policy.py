"""The policy gate: what it finds and takes for something, what it costs, and what a cloud gets to see.

    python benchmarks/policy.py          # alone on the machine

Sensitive values are Faker's, of several locales; the texts around them, and the hard negatives, are ours. Conversations
go through router, gate, cascade and the real client of a cloud on loopback that fails now and then. The local model is
a stand-in that always breaks its format and now and then fails, so that each answer would escalate or fall back to
the cloud if it could: no real one would try so hard.
"""

import argparse
import asyncio
import hashlib
import json
import random
import re
import shlex
import string
import sys
import tempfile
import threading
import time
import unicodedata
from collections import Counter
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from faker import Faker
from presidio_analyzer.predefined_recognizers import DeTaxIdRecognizer, InAadhaarRecognizer, NhsRecognizer
from rich.progress import Progress

import report
from pointsman.artifacts.store import ArtifactStore
from pointsman.embedding.cache import EmbeddingCache
from pointsman.embedding.load import load_encoder
from pointsman.errors import BackendDownError, PointsmanError
from pointsman.generation.cloud import Cloud
from pointsman.generation.generator import Generator
from pointsman.generation.shadows import Shadows
from pointsman.host.catalog_manager import SnapshotBuilder
from pointsman.host.offline import load_catalog
from pointsman.policy.detect import Detector
from pointsman.policy.gate import Gate
from pointsman.router.router import Router
from pointsman.router.worker import EncoderWorker
from pointsman.sections import Shadow
from pointsman.settings import load
from pointsman.values.decision import Routed
from pointsman.values.events import Escalation, Finished, FinishReason, Token, Usage
from pointsman.values.kinds import PRESIDIO
from pointsman.values.policy import SECRET, Action, Pattern, Policy, WordList
from pointsman.values.price import ModelPrice, PriceList
from pointsman.values.request import Message, Request, Role, Tier

ROOT = Path(__file__).parent.parent
REGIONS = ("US", "GB", "DE")
KINDS = (*PRESIDIO, SECRET, "project")
WORDS = ("Blue Heron", "Northwind", "Falken 7", "Überseering")
WRITTEN = (
    str,
    str.upper,
    str.lower,
    "\u200d".join,
    lambda word: word.replace(" ", "\u00a0"),
)
"""A company's own words, as people write them and as somebody might who wants them not to be found."""
DISGUISES = {
    "full width": lambda value: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in value),
    "zero-width joiners": "\u200d".join,
    "a control": lambda value: f"{value[:4]}\x00{value[4:]}",
    "spaces that do not break": lambda value: value.replace(" ", "\u00a0"),
    "enclosed digits": lambda value: "".join(chr(0x245F + int(c)) if c in "123456789" else c for c in value),
    "underlined": lambda value: "".join(f"{c}\u0332" if c.isalnum() and c.isascii() else c for c in value),
}
"""How somebody might write a value who wants it not to be found, or whose keyboard does."""
UNPARTED = (
    "我的号码是{}谢谢", "邮箱{}，请查收", "これは{}です", "番号は{}でお願いします。", "제 번호는{}입니다", "หมายเลข{}ครับ",
)  # fmt: skip
"""Texts in scripts that put no space around a value."""
PATTERNS = tuple(
    Pattern(f"own_{i}", pattern)
    for i, pattern in enumerate(
        (
            r"CUST-\d{6}",
            r"(?i)\bproject [A-Z]\w+",
            r"\b[A-Z]{2}\d{4}-[A-Z]\b",
            r"(?i)\bpatient\s+\d+",
            r"\bSKU[-_]\w{8}\b",
        )
    )
)
"""A company's own, for the cost of them."""
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
ALPHANUMERIC = string.ascii_letters + string.digits
AROUND = (
    "Please look at {} and tell me what to do.", "My colleague wrote {} on the form.", "It is {}, if that helps.",
    "Use {} for this.", "I was given {} yesterday; is that right?", "details: {}", "({})", '"{}"', "{}",
    "Could you check whether {} is the right one before we go on with the order for next week?",
)  # fmt: skip
BESIDE_CARD = (
    "{} {mm}/{yy}", "{} exp {mm}/{yy} CVV {cvv}", "{} {mm}/{yy} {cvv}", "{} cvv {cvv}", "card {}, valid until {mm}-20{yy}, code {cvv}",
    "{mm}/{yy} {}", "{}|{mm}|{yy}|{cvv}", "either {} or 4111 1111 1111 1111", "Ship to 10115 Berlin, pay with {} {cvv}",
)  # fmt: skip
"""What people write with a card: digits that may be taken for more of it."""
PROMPTS = (
    "Compare the foreign policies of Bismarck and Metternich in an essay.", "Where is my parcel?",
    "I want my money back.", "Prove that there are infinitely many primes.", "How many users signed up last week?",
    "Will it rain tomorrow?", "Write a sonnet about the tax code.", "Cancel my subscription.",
)  # fmt: skip
NEGATIVES = (
    "order {n4}-{n4}", "version {d}.{d}.{n2}", "on 2026-0{d}-1{d}", "at 1{d}:{n2}", "costs {n3}.{n2} euro", "build 2026{n4}",
    "ticket INC{n4}{n3}", "room {d}.{n2}", "commit {hex}", "part number {n3}-{n2}-{n4}{d}", "@someone in the chat", "page {n3}",
    "ISBN 978-3-16-148410-{d}", "serial {n4} {n4} {n4} {n3}{d}", "flight LH{n3}", "{n2} % of {n4} requests", "isbn {n4}{n4}{n2}",
    "invoice {n4}{n4}{n4}", "port {n4}", "chapter {d}, paragraph {n2}", "the key is under the mat", "my password is a secret",
    "a {n2}-year-old house", "model GT-{n4}", "batch AB {n2} {n2} {n2} C", "tracking 1Z{n3}AA10{n4}{n4}",
)  # fmt: skip


def with_check_digit(number: str) -> str:
    """Put the last digit right, that of Verhoeff: Faker's is another, and may begin with 0 or 1."""
    right = InAadhaarRecognizer().validate_result
    return next(f"{number[:-1]}{digit}" for digit in string.digits if right(f"{number[:-1]}{digit}"))


def with_last(recognizer, digits: str, last: str = string.digits) -> str:
    """Return digits with a check digit behind them that a recogniser takes; there may be none."""
    found = (f"{digits}{digit}" for digit in last if recognizer.validate_result(f"{digits}{digit}"))
    return next(found, "")


def nhs_number(draw: random.Random) -> str:
    """Return a number of the National Health Service, grouped or not."""
    made = ""
    while not made:
        made = with_last(NhsRecognizer(), f"{draw.randrange(400_000_000, 499_999_999)}")
    return draw.choice((made, f"{made[:3]} {made[3:6]} {made[6:]}"))


def tax_id(draw: random.Random) -> str:
    """Return a German tax number: one of its first ten digits stands there twice."""
    made = ""
    while not made:
        digits = draw.sample(string.digits, 9)
        first = [*digits, draw.choice(digits)]
        draw.shuffle(first)
        made = with_last(DeTaxIdRecognizer(), "".join(first)) if first[0] != "0" else ""
    return made


def wallet(draw: random.Random) -> str:
    """Return a Bitcoin address: base58 of a version, 20 bytes and their check sum."""
    content = bytes([draw.choice((0, 5))]) + draw.randbytes(20)
    whole = content + hashlib.sha256(hashlib.sha256(content).digest()).digest()[:4]
    number, said = int.from_bytes(whole), ""
    while number:
        number, digit = divmod(number, 58)
        said = BASE58[digit] + said
    return BASE58[0] * (len(whole) - len(whole.lstrip(b"\0"))) + said


def values(seed: int) -> dict:
    """Return, by kind, what makes a value."""

    def fakers(*locales):
        made = [Faker(locale) for locale in locales]
        for i, faker in enumerate(made):
            faker.seed_instance(seed + i)
        return made

    draw = random.Random(seed)
    us, gb, it, pl, es, fi, se, de, india, fr = fakers(
        "en_US", "en_GB", "it_IT", "pl_PL", "es_ES", "fi_FI", "sv_SE", "de_DE", "en_IN", "fr_FR"
    )
    text = lambda n, of=ALPHANUMERIC: "".join(draw.choices(of, k=n))  # noqa: E731
    grouped = lambda number: " ".join(number[i : i + 4] for i in range(0, len(number), 4))  # noqa: E731
    shown = lambda number: draw.choice((number, grouped(number)))  # noqa: E731
    return {
        "email": lambda: draw.choice((us, gb, it, pl, es, de, fr)).email(),
        "phone": lambda: draw.choice(
            (f"+33 1 {draw.randrange(40, 59)} {draw.randrange(10, 99)} {draw.randrange(10, 99)} {draw.randrange(10, 99)}", f"+1 {us.basic_phone_number()}", f"+44 20 7946 0{draw.randrange(100, 999)}",
             f"+49 30 {draw.randrange(100000, 9999999)}", us.basic_phone_number())
        ),
        "payment_card": lambda: shown(us.credit_card_number()),
        "iban": lambda: shown(draw.choice((gb, it, pl, es, fi, de, fr)).iban()),
        "ip_address": lambda: draw.choice((us.ipv4_public(), us.ipv6())),
        "mac_address": us.mac_address,
        "us_ssn": us.ssn,
        "us_itin": us.itin,
        # Faker's begin and end with letters that nobody's does.
        "uk_nino": lambda: f"{draw.choice(('AB', 'CE', 'JK', 'PR'))}{gb.ssn()[2:-1]}{draw.choice('ABCD')}",
        "it_fiscal_code": it.ssn,
        "pl_pesel": pl.pesel,
        "es_nif": es.nif,
        "fi_personal_id": fi.ssn,
        "se_personnummer": se.ssn,
        "in_aadhaar": lambda: shown(with_check_digit(f"{draw.randrange(2, 10)}{india.aadhaar_id()[1:]}")),
        "uk_nhs": lambda: nhs_number(draw),
        "de_tax_id": lambda: tax_id(draw),
        "crypto_wallet": lambda: wallet(draw),
        "project": lambda: draw.choice(WRITTEN)(draw.choice(WORDS)),
        SECRET: lambda: draw.choice(
            (f"ghp_{text(36)}", f"xoxb-{text(12, string.digits)}-{text(12, string.digits)}-{text(24)}",
             f"AKIA{text(16, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567')} {text(40)}", f"glpat-{text(20)}",
             f"sk_live_{text(24)}", f"postgresql://app:{text(14)}@db.internal:5432/app", f"npm_{text(36)}")
        ),
    }  # fmt: skip


def negative(draw: random.Random) -> str:
    digits = {f"n{n}": "".join(draw.choices(string.digits, k=n)) for n in (2, 3, 4)}
    return draw.choice(NEGATIVES).format(
        **digits, d=draw.randrange(1, 9), hex="".join(draw.choices("0123456789abcdef", k=40))
    )


def around(kind: str, value: str, draw: random.Random) -> str:
    """Return a text that a value of a kind stands in."""
    if kind == "payment_card" and draw.random() < 0.5:
        expiry = {"mm": f"{draw.randrange(1, 13):02}", "yy": str(draw.randrange(26, 33))}
        return draw.choice(BESIDE_CARD).format(value, **expiry, cvv=f"{draw.randrange(1000):03}")
    return draw.choice(AROUND).format(value)


def covered(spans, start: int, end: int) -> bool:
    """Return whether spans cover a place wholly: half of a card that is found is half of a card that leaves."""
    left = set(range(start, end))
    for span in spans:
        left.difference_update(range(span.start, span.end))
    return not left


def recall(detector: Detector, kind: str, make, texts: int, write) -> str:
    """Return the share of values that are found, wholly and as their kind, in texts that `write` makes of them."""
    right = 0
    for _ in range(texts):
        value, text = write(make())
        value = sensitive(value)
        start = text.index(value)
        right += covered((s for s in detector.find(text) if s.kind == kind), start, start + len(value))
    return f"{right / max(1, texts):.3f}"


def sensitive(value: str) -> str:
    """Return what is sensitive of a value: of an address with a password, that alone, however it is written."""
    password = re.search(r"[:：](?!.?[/／])\u200d?(.+?)\u200d?[@＠]", value)
    return password.group(1) if password else value


def disguised(value: str, draw: random.Random) -> str:
    return draw.choice(tuple(DISGUISES.values()))(value)


def detection(detector: Detector, texts: int, seed: int) -> list[list[str]]:
    """Return a row a kind: recall over its own values, precision over those and harmless texts."""
    draw = random.Random(seed)
    right, total, confused, wrong = Counter(), Counter(), Counter(), Counter()
    hidden, beside = {}, {}
    for kind, make in values(seed).items():
        for _ in range(texts):
            value = make()
            text = around(kind, value, draw)
            found, value = detector.find(text), sensitive(value)
            start = text.index(value)
            total[kind] += 1
            right[kind] += covered((s for s in found if s.kind == kind), start, start + len(value))
            confused.update({s.kind for s in found} - {kind})

        def in_disguise(value: str) -> tuple[str, str]:
            value = disguised(value, draw)
            return value, draw.choice(AROUND).format(value)

        hidden[kind] = recall(detector, kind, make, texts // 4, in_disguise)
        beside[kind] = recall(
            detector, kind, make, texts // 4, lambda value: (value, draw.choice(UNPARTED).format(value))
        )
    for _ in range(texts * 10):
        wrong.update({s.kind for s in detector.find(draw.choice(AROUND).format(negative(draw)))})
    rows = [
        [f"`{kind}`", str(total[kind]), f"{right[kind] / total[kind]:.3f}", hidden[kind], beside[kind],
         f"{right[kind] / max(1, right[kind] + wrong[kind]):.3f}",
         f"{right[kind] / max(1, right[kind] + wrong[kind] + confused[kind]):.3f}",
         str(wrong[kind]), str(confused[kind])]
        for kind in values(seed)
    ]  # fmt: skip
    others = sorted((wrong.keys() | confused.keys()) - values(seed).keys())
    return rows + [
        [
            f"`{kind}`",
            "0",
            report.NOTHING,
            report.NOTHING,
            report.NOTHING,
            report.NOTHING,
            report.NOTHING,
            str(wrong[kind]),
            str(confused[kind]),
        ]
        for kind in others
    ]


async def cost(gate: Gate, prompts: int) -> list[float]:
    """Return the seconds that the gate takes for prompts of sixty words, none of them twice."""
    words = [
        "could",
        "you",
        "please",
        "look",
        "into",
        "this",
        "and",
        "tell",
        "me",
        "what",
        "went",
        "wrong",
        "with",
        "the",
        "delivery",
        "of",
        "last",
        "week",
    ]
    draw, found = random.Random(1), []
    for _ in range(prompts):
        chosen = [*(draw.choice(words) for _ in range(54)), *negative(draw).split(), negative(draw)]
        request = Request((Message(Role.USER, " ".join(chosen)),))
        begun = time.perf_counter()
        await gate.admit(request)
        found.append(time.perf_counter() - begun)
    return found


@contextmanager
def cloud_on_loopback(failing: float):
    """Serve chat completions, and keep every body; a share of the requests fails."""
    bodies, draw = [], random.Random(5)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_POST(self):
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            if draw.random() < failing:
                self.send_response(500)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            for delta, finish in (({"content": "fine"}, None), ({}, "stop")):
                chunk = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m",
                         "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}  # fmt: skip
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            usage = {"prompt_tokens": 40, "completion_tokens": 1, "total_tokens": 41}
            last = {
                "id": "x",
                "object": "chat.completion.chunk",
                "created": 0,
                "model": "m",
                "choices": [],
                "usage": usage,
            }
            self.wfile.write(f"data: {json.dumps(last)}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Failing:
    """In the place of the engines: a local model that breaks its format, and fails one time in ten.

    Every second time it says what it was told not to: `secret`, cut short, dotted, or one character after the other.
    """

    adapters = None

    def __init__(self) -> None:
        self._draw = random.Random(3)
        self.secret = ""

    @asynccontextmanager
    async def lease(self, specialist, budget_s=None):
        yield self

    @asynccontextmanager
    async def place(self, tokens=0, budget_s=None, prompt_tokens=0):
        if self._draw.random() < 0.1:
            raise BackendDownError("the engine is down")
        yield 0.0

    async def stream(self, question):
        plain = "".join(filter(str.isalnum, self.secret))
        says = ["}} I cannot help with that. ", "It is on its way. "]
        if plain:
            says += [
                f"Noted: {self.secret[: -(-len(self.secret) * 2 // 3)]}",
                f"Noted: {'.'.join(plain[i : i + 4] for i in range(0, len(plain), 4))}.",
                f"Noted: {' '.join(plain)} ",
                f"Noted: {self.secret} ",
            ]
        said = self._draw.choice(says)
        for i in range(0, len(said), 9):
            yield Token(said[i : i + 9], -9.0)
        yield Finished(FinishReason.STOP, Usage(10, 3, 0))


class Beside:
    """Where shadow scoring leaves what came of it, and its tasks."""

    def __init__(self) -> None:
        self.rows = []
        self.tasks = []

    def keep(self, row) -> None:
        self.rows.append(row)

    def spent(self, since: float) -> float:
        del since
        return 0.0

    def create_task(self, coroutine, **how) -> asyncio.Task:
        self.tasks.append(asyncio.create_task(coroutine, **how))
        return self.tasks[-1]

    async def settle(self) -> None:
        tasks, self.tasks = self.tasks, []
        await asyncio.gather(*tasks)


def conversations(count: int, seed: int):
    """Yield (kind, value, messages): a value anywhere in the history; kind None: nothing sensitive."""
    draw, makers = random.Random(seed), list(values(seed).items())
    for i in range(count):
        turns = draw.choice((1, 1, 3, 5, 9))
        texts = [draw.choice((*PROMPTS, "Thank you.", negative(draw))) for _ in range(turns - 1)] + [
            draw.choice(PROMPTS)
        ]
        kind, value = None, ""
        if i % 11:  # one in eleven is there to see that the cloud is reached at all
            kind, make = draw.choice(makers)
            value, at, how = make(), draw.randrange(turns), draw.random()
            if how < 0.2:
                value = disguised(value, draw)
            told = draw.choice(UNPARTED).format(value) if how > 0.85 else around(kind, value, draw)
            value = sensitive(value)
            texts[at] = f"{told} {texts[at]}"
        yield (
            kind,
            value,
            tuple(
                Message(Role.USER if (turns - j) % 2 else Role.ASSISTANT, text)
                for j, text in enumerate(texts)
            ),
        )


async def tiers_of(generator: Generator, request: Request) -> list[Tier]:
    """Answer a request; returns the tiers that had a part in it."""
    async with aclosing(generator.generate(request)) as events:
        return [event.decision.tier async for event in events if isinstance(event, Routed | Escalation)]


def finds(detector: Detector, text: str, value: str) -> bool:
    """Return whether a value that stands in a text is found there, all of it."""
    start = text.find(value)
    return start >= 0 and covered(detector.find(text), start, start + len(value))


def folded(text: str) -> str:
    """Return letters and digits alone, as they look: whatever stands between them."""
    looks = (str(d) if (d := unicodedata.digit(c, None)) is not None else c for c in text)
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", "".join(looks)).casefold()))


def holds(body: str, value: str) -> bool:
    """Return whether six letters and digits in a row of a value stand in a body, whatever is between them."""
    asked = json.loads(body)
    texts = [message["content"] for message in asked["messages"]] + list(asked.get("stop") or ())
    texts = [
        text.replace("examples", "") for text in texts
    ]  # what an escalation says; Faker's mail is at example.com
    whole = folded(value)
    pieces = {whole[i : i + 6] for i in range(max(1, len(whole) - 5))}
    return any(piece in folded(text) for text in texts for piece in pieces)


async def egress(
    what: str, policy: Policy, detector: Detector, count: int, scratch: Path, progress: Progress
) -> list[list[str]]:
    """Return what happened to the conversations, with `what` as the first column."""
    seen = Counter()
    with cloud_on_loopback(0.1) as (url, bodies):
        cloud_settings = {"base_url": url, "model": "big", "max_retries": 1}
        settings = load(
            cloud=cloud_settings, routing={"on_cloud_down": "general", "mid": "cloud:mid"},
            paths={"cache": scratch, "policy": scratch / "none.yaml"},
        )  # fmt: skip
        store = ArtifactStore(settings.paths.models, settings.paths.specialists)
        encoder = load_encoder(settings.encoder, store)
        worker = EncoderWorker(encoder, 64)
        builder = SnapshotBuilder(settings, EmbeddingCache(encoder, scratch), encoder.hash)
        snapshot = await builder.build(load_catalog(settings))
        router = Router(worker, snapshot, settings.conversations, Gate(policy, detector))
        price, beside = ModelPrice(2.0, 0.5, 8.0), Beside()
        cloud = Cloud(settings.cloud, "mid", PriceList("USD", {"big": price, "mid": price}).cost)
        everything = Shadow(share=1.0, per_minute=1_000_000, budget_per_day=1e6)
        shadows = Shadows(everything, cloud, worker.embed, beside, beside)
        engine = Failing()
        generator = Generator(router, engine, cloud, settings.cascade, shadows=shadows)
        task = progress.add_task(f"conversations: {what}", total=count)
        draw = random.Random(9)
        for kind, value, messages in conversations(count, 77):
            before, compared = len(bodies), len(beside.rows)
            request = Request(messages, hold_back=draw.random() < 0.5, request_id="r")
            tiers, engine.secret = [], value
            try:
                tiers = await tiers_of(generator, request)
            except PointsmanError:
                seen["failed", kind is None] += 1
            await beside.settle()
            sent = bodies[before:]
            label = "nothing sensitive" if kind is None else "not found"
            if kind and any(finds(detector, message.content, value) for message in messages):
                label = "found"
            seen["conversations", label] += 1
            seen["bytes", label] += sum(map(len, sent))
            seen["requests", label] += len(sent)
            seen["cloud", label] += Tier.CLOUD in tiers
            seen["compared", label] += len(beside.rows) - compared
            seen["leaks", label] += bool(value) and any(holds(body, value) for body in sent)
            progress.advance(task)
        await cloud.close()
        worker.close()
        builder.close()
    return [
        [
            what,
            label,
            *(
                f"{seen[counted, label]:,}"
                for counted in ("conversations", "cloud", "compared", "requests", "bytes", "leaks")
            ),
        ]
        for label in ("found", "not found", "nothing sensitive")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--texts", type=int, default=1000, help="values of each kind; ten times as many negatives"
    )
    parser.add_argument("--conversations", type=int, default=11_000, help="one in eleven of them harmless")
    parser.add_argument("--prompts", type=int, default=2000, help="of sixty words, for the cost of the gate")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "policy.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Progress() as progress:
        scratch = Path(name)
        costs = []
        for regions in ((), ("US",), REGIONS):
            policy = Policy(
                dict.fromkeys(KINDS, Action.STAY_LOCAL),
                words=(WordList("project", WORDS),),
                phone_regions=regions,
            )
            detector = Detector(policy, scratch)
            took = asyncio.run(cost(Gate(policy, detector), arguments.prompts))
            costs.append(
                [
                    ", ".join(regions) or "international form only",
                    *(f"{report.percentile(took, p) * 1e3:.2f}" for p in (50, 99)),
                ]
            )
        patterned = replace(
            policy, actions=policy.actions | {p.name: Action.REDACT for p in PATTERNS}, patterns=PATTERNS
        )
        took = asyncio.run(cost(Gate(patterned, Detector(patterned, scratch)), arguments.prompts))
        costs.append(
            [
                f"{', '.join(REGIONS)}, and {len(PATTERNS)} own patterns",
                *(f"{report.percentile(took, p) * 1e3:.2f}" for p in (50, 99)),
            ]
        )
        found = detection(detector, arguments.texts, 11)
        redacting = replace(policy, actions=dict.fromkeys(KINDS, Action.REDACT))
        left = [
            row
            for what, applied, count in (
                ("stays local", policy, arguments.conversations),
                ("redacted", redacting, arguments.conversations // 5),
            )
            for row in asyncio.run(egress(what, applied, detector, count, scratch, progress))
        ]
    body = (
        f"{report.versions('pointsman', 'presidio-analyzer', 'kingfisher-secret-scanner', 'faker')}; all kinds of "
        f"pointsman that need no model, phone numbers of {', '.join(REGIONS)} and in international form.\n\n"
        f"## Detection\n\nRecall over {arguments.texts} values a kind, each in one of {len(AROUND)} texts: a value counts as found where all of it is covered, as its kind (of an address with a password, the password). "
        f"Over {arguments.texts // 4} more, recall of values in disguise ({', '.join(DISGUISES)}), and of values in Chinese, Japanese, Korean and Thai "
        "texts that put no space around them. Precision over "
        f"those and {arguments.texts * 10:,} harmless ones with {len(NEGATIVES)} kinds of hard negatives, and over those and "
        "the texts of all other kinds, many of which are numbers of the same form. The last columns count texts in which the "
        "kind was reported and is not. `project` is a word list. Half of the payment cards stand beside an expiry, a check "
        "number or another card. Of Faker's, those that are not found are of ranges that no issuer has.\n\n"
        + report.table(
            ["kind", "values", "recall", "in disguise", "without spaces around", "precision", "with other kinds", "in harmless texts", "in those of other kinds"],
            found,
        )
        + "\n\n## Cost\n\n"
        + report.table(["phone numbers in the form of", "p50 ms", "p99 ms"], costs)
        + "\n\n## What left\n\nEvery kind stays local, then every kind is redacted; cascade, fallback to and from the cloud, retries and shadow scoring "
        "of every local answer are on, one cloud request in ten fails. One value in five is in disguise, one in seven stands in a text without spaces; "
        "found is a value of which all is covered. Four answers in six of the local model repeat the value: cut short, dotted, letter by letter, or whole.\n\n"
        + report.table(["policy", "sensitive value", "conversations", "answered by the cloud", "compared with it", "requests to it", "bytes to it", "conversations with six characters in a row of the value in them"], left)
    )  # fmt: skip
    report.write(
        arguments.out,
        "Policy: what is found, what it costs, what leaves",
        body,
        shlex.join(["python", "benchmarks/policy.py", *sys.argv[1:]]),
    )
    print(body)


if __name__ == "__main__":
    main()
