"""aurelio semantic-router behind the same gRPC contract, for benchmarks/route.py.

Runs in a virtual environment of its own (benchmarks/peers.txt). The weights are those of our encoder, run either
by semantic-router's own HuggingFaceEncoder (--huggingface) or, to compare all but the encoder, by ours (--model);
index, scoring and aggregation are semantic-router's own defaults. It gets the best that its API offers: a
local index, its async call, and the encoder on a thread, so that its loop stays free.

    python benchmarks/aurelio_server.py --intents DIR --model model.onnx --tokenizer tokenizer.json
    python benchmarks/aurelio_server.py --intents DIR --huggingface FOLDER
"""

import argparse
import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import grpc
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent / "server"))

from semantic_router import IndexedRouter, Route
from semantic_router.encoders.base import DenseEncoder
from semantic_router.encoders.huggingface import HuggingFaceEncoder

from pointsman.embedding.onnx_encoder import OnnxEncoder
from pointsman.v1 import router_pb2, router_pb2_grpc


class SameWeights(DenseEncoder):
    """Our encoder in semantic-router's clothes."""

    name: str = "same-weights"
    type: str = "onnx"
    onnx: OnnxEncoder
    thread: ThreadPoolExecutor

    def __call__(self, docs: list[str]) -> list[list[float]]:
        return self.onnx.encode(docs).tolist()

    async def acall(self, docs: list[str]) -> list[list[float]]:
        rows = await asyncio.get_running_loop().run_in_executor(self.thread, self.onnx.encode, docs)
        return rows.tolist()


class ItsOwn(HuggingFaceEncoder):
    """semantic-router's own encoder, with its call on a thread too."""

    thread: ThreadPoolExecutor
    model_config: ClassVar = {"arbitrary_types_allowed": True}

    async def acall(self, docs: list[str]) -> list[list[float]]:
        return await asyncio.get_running_loop().run_in_executor(self.thread, self, docs)


class Servicer(router_pb2_grpc.RouterServiceServicer):
    """`Route` over semantic-router."""

    def __init__(self, router: IndexedRouter) -> None:
        self._router = router

    async def Route(self, request, context):
        choice = await self._router.acall(request.messages[-1].content)
        return router_pb2.RouteResponse(
            decision=router_pb2.Decision(intent=choice.name or "", confidence=choice.confidence or 0.0)
        )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--intents", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--huggingface", type=Path)
    parser.add_argument("--texts", type=Path, help="JSON list; timed in process before serving")
    arguments = parser.parse_args()
    thread = ThreadPoolExecutor(1)
    if arguments.huggingface:
        import torch

        torch.set_num_threads(1)
        encoder = ItsOwn(name=str(arguments.huggingface), thread=thread)
    else:
        encoder = SameWeights(onnx=OnnxEncoder(arguments.model, arguments.tokenizer, 1), thread=thread)
    files = [yaml.safe_load(path.read_text()) for path in sorted(arguments.intents.glob("*.yaml"))]
    routes = [Route(name=file["name"], utterances=file["exemplars"]) for file in files]
    router = await asyncio.to_thread(IndexedRouter, encoder, routes)
    in_process = []
    for text in json.loads(arguments.texts.read_text()) if arguments.texts else []:
        begun = time.perf_counter()
        await router.acall(text)
        in_process.append((time.perf_counter() - begun) * 1e3)
    server = grpc.aio.server()
    router_pb2_grpc.add_RouterServiceServicer_to_server(Servicer(router), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"port": port, "in_process_ms": in_process}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


asyncio.run(main())
