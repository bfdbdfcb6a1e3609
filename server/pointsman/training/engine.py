"""An engine for the time of a `with`: the child process that serves, asked about tokens and answers."""

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Self

import httpx2

from pointsman.errors import BackendDownError
from pointsman.generation.backend import Question
from pointsman.generation.chat_client import ChatClient
from pointsman.generation.engine_spec import EngineSpec
from pointsman.settings import child_environment
from pointsman.values.events import Finished, Token

_TIMEOUT_S = 120.0
_STREAMS = 4
"""Answers made at once: a batch of four costs little more than one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine said: text, log-probability of each piece of it, and how many tokens it was."""

    text: str
    logprobs: tuple[float, ...]
    tokens: int


class Engine:
    """A llama.cpp engine over a base, with one adapter or none. Blocking."""

    def __init__(self, base: Path, adapter: Path | None, threads: int, context_tokens: int) -> None:
        """Describe it; entering starts it."""
        self._spec = EngineSpec(
            kind="llama_cpp",
            model=base,
            adapters=(adapter,) if adapter else (),
            context_tokens=context_tokens,
            slots=_STREAMS,
            threads=threads,
        )
        self._key = secrets.token_hex(16)
        self._process: subprocess.Popen[str] | None = None
        self._url = ""

    def __enter__(self) -> Self:
        """Start the engine.

        Raises:
            BackendDownError: it does not load; says why.

        """
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "pointsman.generation.llama_cpp_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=child_environment(),
            start_new_session=True,
        )
        assert process.stdin is not None  # noqa: S101 - piped
        assert process.stdout is not None  # noqa: S101 - piped
        specification = {key: _plain(value) for key, value in asdict(self._spec).items()}
        process.stdin.write(json.dumps(specification | {"api_key": self._key}) + "\n")
        process.stdin.flush()
        reply = json.loads(process.stdout.readline() or '{"error": "it ended without a word"}')
        if "error" in reply:
            self.__exit__(None, None, None)
            raise BackendDownError(f"{self._spec.model.name} does not load: {reply['error']}", permanent=True)
        self._url = f"http://127.0.0.1:{reply['port']}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the engine."""
        assert self._process is not None  # noqa: S101 - entered
        assert self._process.stdin is not None  # noqa: S101 - piped
        assert self._process.stdout is not None  # noqa: S101 - piped
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def next_tokens(self, given: Sequence[int], said: Sequence[int]) -> list[int]:
        """Return the likeliest token at each place of `said` after `given` and all of `said` before it."""
        likeliest: list[int] = []
        with self._http() as http:
            for place in range(len(said)):
                reply = http.post(
                    "/completion",
                    json={
                        "prompt": [*given, *said[:place]],
                        "n_predict": 1,
                        "temperature": 0.0,
                        "return_tokens": True,
                        "cache_prompt": True,
                        "id_slot": 0,
                        "lora": [{"id": i, "scale": 1.0} for i in range(len(self._spec.adapters))],
                    },
                )
                reply.raise_for_status()
                likeliest.append(int(reply.json()["tokens"][0]))
        return likeliest

    def tokens(self, text: str) -> list[int]:
        """Return the token ids of a text that may hold control tokens."""
        with self._http() as http:
            reply = http.post(
                "/tokenize", json={"content": text, "parse_special": True, "add_special": False}
            )
            reply.raise_for_status()
            return [int(token) for token in reply.json()["tokens"]]

    def answers(
        self, questions: Sequence[Question], said: Callable[[int], None]
    ) -> tuple[list[Answer], float]:
        """Return an answer to each question, in order, and the seconds of all; `said` is told how many are done.

        Raises:
            BackendDownError: the engine failed.
            InvalidRequestError: a prompt does not fit its context.

        """
        began = perf_counter()
        answers = asyncio.run(self._answers(questions, said))
        return answers, perf_counter() - began

    async def _answers(self, questions: Sequence[Question], said: Callable[[int], None]) -> list[Answer]:
        answers: list[Answer | None] = [None] * len(questions)
        waiting = iter(enumerate(questions))
        done = 0

        async def work(client: ChatClient) -> None:
            nonlocal done
            for number, question in waiting:
                answers[number] = await _answer(client, question)
                done += 1
                said(done)

        async with self._chat() as client, asyncio.TaskGroup() as tasks:
            for _ in range(_STREAMS):
                tasks.create_task(work(client))
        return [answer for answer in answers if answer is not None]

    @asynccontextmanager
    async def _chat(self) -> AsyncGenerator[ChatClient, None]:
        client = ChatClient(
            "the engine",
            f"{self._url}/v1",
            self._spec.model.name,
            self._key,
            connect_s=5.0,
            read_s=_TIMEOUT_S,
            retries=0,
            ours=True,
        )
        try:
            yield client
        finally:
            await client.close()

    def _http(self) -> httpx2.Client:
        return httpx2.Client(
            base_url=self._url,
            headers={"Authorization": f"Bearer {self._key}"},
            timeout=_TIMEOUT_S,
            trust_env=False,
        )


async def _answer(client: ChatClient, question: Question) -> Answer:
    pieces: list[str] = []
    logprobs: list[float] = []
    tokens = 0
    async with aclosing(client.stream(question)) as stream:
        async for item in stream:
            if isinstance(item, Token):
                pieces.append(item.text)
                logprobs.append(float("-inf") if item.logprob is None else item.logprob)
            elif isinstance(item, Finished):
                tokens = item.usage.completion_tokens
    return Answer("".join(pieces), tuple(logprobs), tokens)


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
