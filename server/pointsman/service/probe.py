"""An address to an exit status: `python -m pointsman.service.probe HOST:PORT`, for container health checks.

Asks grpc.health.v1 for the server as a whole. Knows nothing of what the server serves.
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 3.0


def probe(address: str, timeout_s: float = TIMEOUT_S) -> str:
    """Return what is wrong with the server at `address` (host:port); empty when it is SERVING."""
    # Health is asked of this machine: a proxy of the environment has no part in it.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            response = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    if response.status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


def main() -> None:
    """Exit 0 when SERVING; else 1, with one line on standard error."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m pointsman.service.probe HOST:PORT\n")
        sys.exit(2)
    wrong = probe(sys.argv[1])
    if wrong:
        sys.stderr.write(f"{sys.argv[1]}: {wrong}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
