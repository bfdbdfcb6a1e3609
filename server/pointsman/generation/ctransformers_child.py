"""The process that holds one ctransformers engine: `python -m pointsman.generation.ctransformers_child`.

The protocol is that of `llama_cpp_child`: a specification on stdin, `{"port": …}` or `{"error": …}` on
stdout, the OpenAI protocol on loopback, the end with the end of stdin. One answer is made at a time.
What ctransformers cannot do, and how that was found, stands in docs/ctransformers.md.
"""

import codecs
import ctypes
import hmac
import json
import math
import random
import re
import select
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from pointsman.generation.child import Child, run_child
from pointsman.generation.ctransformers_vocabulary import read_vocabulary

_BATCH = 32  # tokens of the prompt between two looks at whether the client is still there
_TOP_K = 40  # llama.cpp's default, so that both engines sample alike
_GREEDY_BELOW = 1e-3  # division by a smaller temperature overflows single precision


class Message(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(pattern=r"^[^\x00]*$")  # a NUL would end the prompt: it becomes a C string


class Body(BaseModel):
    """What a request may hold; fields that this engine has no use for are passed over."""

    messages: list[Message] = Field(min_length=1)
    stream: Literal[True]
    stream_options: dict[str, bool] = Field(default_factory=dict)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, allow_inf_nan=False)
    top_p: float = Field(1.0, ge=0, le=1)
    seed: int | None = None
    stop: list[str] = Field(default_factory=list)
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """A step of an answer: text that is ready, which may be none, and the logarithms of its tokens."""

    text: str = ""
    logprobs: tuple[float, ...] = ()
    finish: Literal["stop", "length"] | None = None
    completion_tokens: int = 0
    cached_tokens: int = 0


class Engine:
    """One loaded model. Not safe for threads; its server holds a lock."""

    def __init__(self, path: Path, context_tokens: int, threads: int) -> None:
        """Check the file, then load it; ctransformers aborts on some files instead of saying no."""
        try:
            from ctransformers.llm import LLM, Config
            from jinja2.ext import loopcontrols
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            name = error.name
            raise RuntimeError(f"{name} is not installed: pip install 'pointsman[ctransformers]'") from error
        self._context_tokens = context_tokens
        self._vocabulary = read_vocabulary(path)
        options = {"trim_blocks": True, "lstrip_blocks": True, "extensions": [loopcontrols]}
        environment = ImmutableSandboxedEnvironment(**options)
        environment.globals["raise_exception"] = _raise
        self._template = environment.from_string(self._vocabulary.template)
        texts = sorted(self._vocabulary.control, key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, texts)) or r"(?!)")
        config = Config(context_length=context_tokens, threads=threads, batch_size=_BATCH)
        self._llm = LLM(str(path), "llama", config=config)

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """Render the chat template, and tokenise it. Control tokens are found here: the library reads none.

        Raises:
            ValueError: the template refuses the conversation, or it does not fit.

        """
        from jinja2 import TemplateError

        words = self._vocabulary
        try:
            text = self._template.render(
                messages=[message.model_dump() for message in messages],
                add_generation_prompt=True,
                bos_token=words.bos_text,
                eos_token=words.eos_text,
            )
        except (TemplateError, TypeError) as error:
            raise ValueError(f"messages: the model's chat template refuses them: {error}") from error
        tokens: list[int] = []
        position = 0
        for mark in self._marks.finditer(text):
            tokens += self._tokenise(text[position : mark.start()])
            tokens.append(words.control[mark.group()])
            position = mark.end()
        tokens += self._tokenise(text[position:])
        if words.add_bos and tokens[:1] != [words.bos]:
            tokens.insert(0, words.bos)
        if len(tokens) >= self._context_tokens:
            raise ValueError(
                f"messages: the prompt has {len(tokens)} tokens, which leaves no room for an answer "
                f"in the context of {self._context_tokens}"
            )
        return tokens

    def answer(self, tokens: Sequence[int], body: Body) -> Iterator[Piece]:
        """Answer, with a piece after every step: a batch of the prompt, or a token. The last has a `finish`."""
        dice = random.Random(body.seed)  # noqa: S311 - sampling, not secrets
        limit = min(body.max_tokens or self._context_tokens, self._context_tokens - len(tokens))
        fresh = list(self._llm.prepare_inputs_for_generation(tokens, reset=True))
        cached = len(tokens) - len(fresh)
        for start in range(0, len(fresh), _BATCH):
            self._llm.eval(fresh[start : start + _BATCH])
            yield Piece()
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        held, logprobs = "", []
        for count in range(1, limit + 1):
            token = self._sample(body, dice)
            ended = token in self._vocabulary.ends
            if not ended:
                held += decode(self._llm.detokenize([token], decode=False))
                if body.logprobs:
                    logprobs.append(self._logprob(token))
            found = min((at for stop in body.stop if stop and (at := held.find(stop)) >= 0), default=-1)
            if ended or found >= 0:
                text = held[:found] if found >= 0 else held + decode(b"", final=True)
                yield Piece(text, tuple(logprobs), "stop", count, cached)
                return
            if count == limit:
                yield Piece(held + decode(b"", final=True), tuple(logprobs), "length", count, cached)
                return
            ready = len(held) - _stop_begun(held, body.stop)
            yield Piece(held[:ready], tuple(logprobs) if ready else ())
            if ready:
                held, logprobs = held[ready:], []
            self._llm.eval([token])

    def _tokenise(self, text: str) -> list[int]:
        # LLM.tokenize counts characters where the library writes a token a byte: "你好" ends it with SIGSEGV.
        data = text.encode(errors="replace")
        buffer = (ctypes.c_int * (len(data) + 8))()
        return list(buffer[: self._llm.ctransformers_llm_tokenize(data, False, buffer)])

    def _sample(self, body: Body, dice: random.Random) -> int:
        # The library seeds anew at every token, with the same number: every token would get the same draw.
        greedy = body.temperature < _GREEDY_BELOW
        token: int = self._llm.sample(
            top_k=1 if greedy else _TOP_K,
            top_p=body.top_p,
            temperature=1.0 if greedy else body.temperature,
            repetition_penalty=1.0,
            seed=dice.getrandbits(31),
        )
        return token

    def _logprob(self, token: int) -> float:
        size = self._llm.ctransformers_llm_logits_size()
        logits = np.ctypeslib.as_array(self._llm.ctransformers_llm_logits_data(), (size,)).astype(np.float64)
        peak = logits.max()
        return float(logits[token] - peak - np.log(np.exp(logits - peak).sum()))


class Server(ThreadingHTTPServer):
    """An engine on a free loopback port."""

    def __init__(self, engine: Engine, api_key: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.engine = engine
        self.authorization = f"Bearer {api_key}"
        self.turn = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """One request, one connection."""

    server: Server
    disable_nagle_algorithm = True  # tokens are small, and wanted now

    def do_GET(self) -> None:
        """Say that the process lives."""
        known = self.path == "/health"
        self._reply(200, {"status": "ok"}) if known else self._refuse(404, "not_found_error", self.path)

    def do_POST(self) -> None:
        """Answer a conversation."""
        if not hmac.compare_digest(
            self.headers.get("Authorization", "").encode(), self.server.authorization.encode()
        ):
            self._refuse(401, "authentication_error", "wrong or missing API key")
        elif self.path != "/v1/chat/completions":
            self._refuse(404, "not_found_error", self.path)
        else:
            with suppress(ConnectionError):  # the client went; so does the answer
                self._complete(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Say nothing: the server logs its requests itself."""

    def _complete(self, data: bytes) -> None:
        engine = self.server.engine
        try:
            body = Body.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            self._refuse(400, "invalid_request_error", f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
            return
        with self.server.turn:
            self._check_client()
            try:
                tokens = engine.tokens(body.messages)
            except ValueError as error:
                self._refuse(400, "invalid_request_error", str(error))
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            try:
                self._stream(engine.answer(tokens, body), body, len(tokens))
            except RuntimeError as error:
                self._send({"error": {"message": str(error), "type": "server_error"}})

    def _stream(self, answer: Iterator[Piece], body: Body, prompt_tokens: int) -> None:
        for piece in answer:
            self._check_client()
            if piece.text or piece.finish:
                # Null is what JSON has for a number that is none.
                entries = [{"token": "", "logprob": v if math.isfinite(v) else None} for v in piece.logprobs]
                choice = {"index": 0, "delta": {"content": piece.text}, "finish_reason": piece.finish}
                self._send(_chunk([choice | ({"logprobs": {"content": entries}} if entries else {})]))
        if body.stream_options.get("include_usage"):
            usage = {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": piece.completion_tokens,
                "total_tokens": prompt_tokens + piece.completion_tokens,
                "prompt_tokens_details": {"cached_tokens": piece.cached_tokens},
            }
            self._send(_chunk([]) | {"usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _check_client(self) -> None:
        """Raise ConnectionError when the client has closed its end."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        if readable and not self.connection.recv(1, socket.MSG_PEEK):
            raise ConnectionAbortedError

    def _send(self, event: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

    def _refuse(self, status: int, kind: str, message: str) -> None:
        self._reply(status, {"error": {"message": message, "type": kind, "code": status}})

    def _reply(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _raise(message: str) -> None:
    """Serve templates that refuse a conversation."""
    from jinja2 import TemplateError

    raise TemplateError(message)


def _stop_begun(text: str, stops: Sequence[str]) -> int:
    """Return how many characters at the end of the text may be the beginning of a stop string."""
    lengths = (n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n]))
    return max(lengths, default=0)


def _chunk(choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": "chatcmpl",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "",
        "choices": choices,
    }


def start(specification: dict[str, Any]) -> Child:
    """Load the model, and listen on a free loopback port."""
    if specification["adapters"]:
        raise ValueError("ctransformers has no LoRA; merge the adapter into the base")
    engine = Engine(Path(specification["model"]), specification["context_tokens"], specification["threads"])
    server = Server(engine, specification["api_key"])
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return Child(server, server.server_port)


if __name__ == "__main__":
    run_child(start)
