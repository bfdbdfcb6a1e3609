"""The second engine: a real child process, a real library, and a model that is a table of successors."""

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import gguf
import httpx2
import numpy as np
import openai
import pytest

from harness import Site, collect
from harness import running as serving
from pointsman.client import constraints
from pointsman.errors import BackendDownError, InvalidRequestError
from pointsman.generation.backend import Question
from pointsman.generation.engine_process import EngineProcess, EngineState
from pointsman.generation.engine_spec import EngineSpec
from pointsman.sections import Engine as EngineSettings
from pointsman.v1 import router_pb2
from pointsman.values.events import Finished, FinishReason, Token, Usage
from pointsman.values.request import Message, Role

pytestmark = [
    pytest.mark.model,
]

# The HTTP client reads its own version from disk at its first use: before a loop runs, then.
openai.DefaultAsyncHttpxClient()

WIDTH = 32
BYTES = [f"<0x{value:02X}>" for value in range(256)]
VOCABULARY = ["<unk>", "<s>", "</s>", "<|turn|>", *BYTES, *"\u2581abcdefghsxyz12"]
# What follows a token: abcdefgh for ever; s, then x or y; z ends; 1 and 2 say a character of several bytes.
CHAINS = ["abcdefgha", "sx", "sy", "xs", "ys", ["z", "</s>"], ["<|turn|>", "a"]]
CHAINS += [["1", "<0xC3>", "<0xA9>", "</s>"], ["2", "<0xE2>", "<0x82>", "<0xAC>", "2"]]
ECHO = "{{ messages[-1].content }}"


def write_model(
    path: Path, *, architecture="llama", tokenizer="llama", template: str | None = ECHO, without=(), also=()
) -> Path:
    """One layer that adds nothing, so that the embedding of the last token alone decides the next one."""
    pairs = [pair for chain in CHAINS for pair in pairwise(chain)]
    dimension = {token: i for i, token in enumerate(dict.fromkeys(token for token, _ in pairs))}
    embedding = np.zeros((len(VOCABULARY), WIDTH), np.float32)
    output = np.zeros_like(embedding)
    for token, following in pairs:
        embedding[VOCABULARY.index(token), dimension[token]] = 1
        output[VOCABULARY.index(following), dimension[token]] = 10
    square, ones = np.zeros((WIDTH, WIDTH), np.float32), np.ones(WIDTH, np.float32)
    tensors = {"token_embd.weight": embedding, "output.weight": output, "output_norm.weight": ones}
    tensors |= {f"blk.0.{name}_norm.weight": ones for name in ("attn", "ffn")}
    tensors |= {f"blk.0.attn_{name}.weight": square for name in ("q", "k", "v", "output")}
    tensors |= {f"blk.0.ffn_{name}.weight": square for name in ("gate", "up", "down")}
    tensors |= dict.fromkeys(also, ones)

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH)
    writer.add_tokenizer_model(tokenizer)
    writer.add_token_list(VOCABULARY)
    writer.add_token_scores([0.0] * len(VOCABULARY))
    normal = len(VOCABULARY) - 260
    writer.add_token_types([2, 3, 3, 3, *[6] * 256, *[1] * normal])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if template is not None:
        writer.add_chat_template(template)
    for name, tensor in tensors.items():
        if name not in without:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "successors.gguf")


@asynccontextmanager
async def supervised(model: Path, context_tokens: int = 128) -> AsyncIterator[EngineProcess]:
    spec = EngineSpec("ctransformers", model, (), context_tokens, slots=1, threads=1)
    engine = EngineProcess(spec, EngineSettings(threads=1))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(engine.run())
        try:
            yield engine
        finally:
            engine.stop()


@asynccontextmanager
async def running(model: Path, context_tokens: int = 128) -> AsyncIterator[EngineProcess]:
    async with supervised(model, context_tokens) as engine:
        await engine.settled()
        yield engine


def ask(text: str, max_tokens: int = 20, *, temperature=0.0, stop=(), seed=None, logprobs=False) -> Question:
    messages = (Message(Role.USER, text),)
    return Question(messages, max_tokens, temperature, 1.0, stop=stop, seed=seed, logprobs=logprobs)


async def answer(engine: EngineProcess, question: Question) -> tuple[str, Finished]:
    items = [item async for item in engine.stream(question)]
    assert isinstance(items[-1], Finished)
    return "".join(item.text for item in items[:-1] if isinstance(item, Token)), items[-1]


async def test_an_answer_arrives_in_tokens_and_ends_with_its_usage(model):
    async with running(model) as engine:
        items = [item async for item in engine.stream(ask("a", 5))]
        assert [item.text for item in items[:-1]] == list("bcdef")
        assert items[-1].reason is FinishReason.LENGTH
        assert items[-1].usage.prompt_tokens == 3  # <s>, the space before every text, a
        assert items[-1].usage.completion_tokens == 5


async def test_greedy_answers_repeat_and_reuse_their_prompt(model):
    async with running(model) as engine:
        first, finished = await answer(engine, ask("cab"))
        assert finished.usage.cached_tokens == 0
        again, finished = await answer(engine, ask("cab"))
        assert first == again == "cdefghabcdefghabcdef"
        assert finished.usage.cached_tokens == finished.usage.prompt_tokens - 1
        assert (await answer(engine, ask("cad", 3)))[0] == "efg"


async def test_the_end_of_a_turn_ends_the_answer(model):
    async with running(model) as engine:
        assert await answer(engine, ask("z")) == ("", Finished(FinishReason.STOP, Usage(3, 1)))


async def test_characters_of_several_tokens_arrive_whole(model):
    async with running(model) as engine:
        assert [i.text async for i in engine.stream(ask("1")) if isinstance(i, Token)] == ["é"]
        assert (await answer(engine, ask("2", 8)))[0] == "€2€2"
        assert (await answer(engine, ask("2", 2)))[0] == "\ufffd"  # cut within a character by max_tokens


async def test_seeds_repeat_and_every_token_has_its_own_draw(model):
    async with running(model) as engine:
        texts = [
            (await answer(engine, ask("s", 60, temperature=1.0, seed=seed)))[0] for seed in (7, 7, 8, None)
        ]
        assert texts[0] == texts[1] != texts[2]
        assert all({"x", "y"} < set(text) for text in texts)


async def test_log_probabilities_are_those_of_the_model(model):
    async with running(model) as engine:
        items = [i async for i in engine.stream(ask("s", 2, logprobs=True)) if isinstance(i, Token)]
        assert [item.logprob for item in items] == [pytest.approx(np.log(0.5)), pytest.approx(0, abs=1e-3)]


async def test_a_stop_string_over_tokens_ends_the_answer_before_it(model):
    async with running(model) as engine:
        text, finished = await answer(engine, ask("a", stop=("xyz", "fgh")))
        assert text == "bcde"
        assert finished.reason is FinishReason.STOP
        assert finished.usage.completion_tokens == 7
        text, finished = await answer(engine, ask("a", 6, stop=("fgx",)))
        assert text == "bcdefg"
        assert finished.reason is FinishReason.LENGTH


async def test_a_prompt_beyond_the_context_is_the_callers_error_and_max_tokens_yields_to_the_context(model):
    async with running(model) as engine:
        with pytest.raises(InvalidRequestError, match=r"the prompt has 502 tokens.*context of 128"):
            await answer(engine, ask("a" * 500))
        _, finished = await answer(engine, ask("a" * 100, 1000))
        assert finished.reason is FinishReason.LENGTH
        assert finished.usage.prompt_tokens + finished.usage.completion_tokens == 128


async def test_text_that_overflows_the_librarys_own_tokeniser_is_answered(model):
    async with running(model) as engine:
        assert (await answer(engine, ask("你好😀a", 3)))[0] == "bcd"


async def test_a_nul_is_refused(model):
    async with running(model) as engine:
        with pytest.raises(InvalidRequestError, match=r"messages\.0\.content"):
            await answer(engine, ask("a\0b"))


async def test_a_cancelled_answer_frees_the_engine_at_once(model):
    async with running(model, context_tokens=16384) as engine:
        begun = time.perf_counter()
        await answer(engine, ask("a", 1500))
        whole_s = (time.perf_counter() - begun) * 10  # what the answer below would take, at the very least
        stream = engine.stream(ask("b", 16000))
        assert (await anext(stream)).text == "c"
        begun = time.perf_counter()
        await stream.aclose()
        assert (await answer(engine, ask("z")))[1].reason is FinishReason.STOP
        assert time.perf_counter() - begun < whole_s / 4


async def test_the_template_of_the_file_is_rendered_with_its_control_tokens(tmp_path):
    template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|turn|>{% endif %}"
    )
    async with running(write_model(tmp_path / "turns.gguf", template=template)) as engine:
        text, finished = await answer(engine, ask("f", 2))
        assert text == "ab"
        assert finished.usage.prompt_tokens == 4  # <s>, space, f, <|turn|> as one token


async def test_a_file_without_template_is_spoken_to_in_chatml(tmp_path):
    async with running(write_model(tmp_path / "plain.gguf", template=None)) as engine:
        _, finished = await answer(engine, ask("a", 1))
        assert finished.usage.prompt_tokens > len("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n")


async def test_a_template_that_refuses_is_the_callers_error(tmp_path):
    path = write_model(tmp_path / "strict.gguf", template="{{ raise_exception('roles must alternate') }}")
    async with running(path) as engine:
        with pytest.raises(InvalidRequestError, match="roles must alternate"):
            await answer(engine, ask("a"))


async def test_only_the_key_opens_it_and_bad_requests_are_refused(model):
    async with running(model) as engine, httpx2.AsyncClient(base_url=engine.url, trust_env=False) as client:
        assert (await client.get("/health")).json() == {"status": "ok"}
        assert (await client.get("/v1/models")).status_code == 404
        assert (await client.post("/v1/chat/completions", json={})).status_code == 401
        headers = {"Authorization": f"Bearer {engine._key}"}
        for content in ("{", '{"messages": [], "stream": true}', '{"messages": 1}'):
            reply = await client.post("/v1/chat/completions", content=content, headers=headers)
            assert reply.status_code == 400
            assert reply.json()["error"]["type"] == "invalid_request_error"


async def test_stopping_leaves_no_process_behind(model):
    async with running(model) as engine:
        pid = engine.pid
        stream = engine.stream(ask("a", 100))
        await anext(stream)
    assert engine.state is EngineState.DOWN
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(BackendDownError):
        [item async for item in stream]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "qwen2"}, "general.architecture is 'qwen2'"),
        ({"tokenizer": "gpt2"}, "tokenizer.ggml.model is 'gpt2'"),
        ({"without": ["output.weight"]}, "tensor output.weight is missing"),
        ({"also": ["rope_freqs.weight"]}, "tensor rope_freqs.weight is none that ctransformers knows"),
    ],
)
async def test_a_model_that_it_cannot_run_is_refused_with_the_field(tmp_path, change, message):
    async with supervised(write_model(tmp_path / "other.gguf", **change)) as engine:
        with pytest.raises(BackendDownError, match=re.escape(f"other.gguf: {message}")):
            await engine.settled()


@pytest.mark.parametrize("keep", [0.01, 0.9])
async def test_a_file_cut_short_is_refused(model, keep):
    content = model.read_bytes()
    model.write_bytes(content[: int(len(content) * keep)])
    async with supervised(model) as engine:
        with pytest.raises(BackendDownError, match=r"successors\.gguf: damaged or cut short"):
            await engine.settled()


async def test_garbage_is_refused(tmp_path):
    path = tmp_path / "garbage.gguf"
    path.write_bytes(b"no model at all")
    async with supervised(path) as engine:
        with pytest.raises(
            BackendDownError, match=r"garbage\.gguf: not a GGUF file \(it begins with b'no m'\)"
        ):
            await engine.settled()


def test_a_missing_extra_is_named(model):
    program = (
        "import sys; sys.modules['ctransformers'] = None\n"
        "import runpy; runpy.run_module('pointsman.generation.ctransformers_child', run_name='__main__')"
    )
    line = json.dumps(
        {"model": str(model), "adapters": [], "context_tokens": 128, "threads": 1, "api_key": "k"}
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=line, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install 'pointsman[ctransformers]'" in json.loads(done.stdout)["error"]


def test_adapters_are_refused(model):
    line = json.dumps({"model": str(model), "adapters": ["a.gguf"], "context_tokens": 128, "threads": 1})
    done = subprocess.run(
        [sys.executable, "-m", "pointsman.generation.ctransformers_child"],
        input=line,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "no LoRA" in json.loads(done.stdout)["error"]


async def test_a_manifest_that_names_it_is_answered_over_grpc(site: Site) -> None:
    """All of the way: the file is fetched by its sha256, the engine started, the answer streamed."""
    path = write_model(site.specialists / "successors.gguf")
    sha256 = hashlib.sha256(await asyncio.to_thread(path.read_bytes)).hexdigest()
    manifest = f"""\
name: successors
base: {{uri: "file:successors.gguf", sha256: "{sha256}"}}
context_tokens: 128
max_output_tokens: 20
engine: ctransformers
"""
    await asyncio.to_thread((site.specialists / "successors.yaml").write_text, manifest)
    async with serving(site.settings()) as server:
        assert server.engine.spec.kind == "ctransformers"
        sampling = router_pb2.Sampling(temperature=0, max_tokens=8)
        text, events = await collect(
            server.client.generate("cab", constraints(specialist="successors"), sampling)
        )
    assert text == "cdefghab"
    assert [event.WhichOneof("event") for event in events] == ["decision", *["token"] * 8, "done"]
    assert events[0].decision.specialist == "successors"
    done = events[-1].done
    assert done.finish_reason == router_pb2.FINISH_REASON_LENGTH
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (5, 8)
