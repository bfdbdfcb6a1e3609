"""The least that a gRPC server around the encoder can take, for benchmarks/route.py.

The same contract, the same grpc.aio and event loop, and nothing but the encoder: the prompt is embedded on the
loop, without a thread's hand-over, and an empty reply is sent. What Route takes beyond this is ours.
"""

import argparse
import asyncio
import json
from pathlib import Path

import grpc

from pointsman.embedding.onnx_encoder import OnnxEncoder
from pointsman.host.serve import fast_event_loop
from pointsman.v1 import router_pb2, router_pb2_grpc


class Servicer(router_pb2_grpc.RouterServiceServicer):
    def __init__(self, encoder: OnnxEncoder) -> None:
        self._encoder = encoder

    async def Route(self, request, context):
        self._encoder.encode([request.messages[-1].content])
        return router_pb2.RouteResponse()


async def serve(encoder: OnnxEncoder) -> None:
    server = grpc.aio.server()
    router_pb2_grpc.add_RouterServiceServicer_to_server(Servicer(encoder), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"port": port}), flush=True)
    await asyncio.to_thread(input)  # until the other side closes it


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    arguments = parser.parse_args()
    encoder = OnnxEncoder(arguments.model, arguments.tokenizer, 1)
    with asyncio.Runner(loop_factory=fast_event_loop()) as runner:
        try:
            runner.run(serve(encoder))
        except EOFError:
            return


if __name__ == "__main__":
    main()
