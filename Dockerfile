# pointsman: gRPC on 50051, /metrics on 9464; model files, caches and the ledger on the volume /models.
# Runs as a user without rights, with a read-only root filesystem and a writable /tmp. See deploy/.
# It listens on all addresses of its container: without TLS and known callers it refuses to start, and names what is
# missing. `docker run IMAGE serve --insecure` is for a network that something else protects. See docs/security.md.

FROM python:3.11-slim-bookworm AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/pointsman
# What the package needs first, by itself: this layer is rebuilt only when versions change.
COPY constraints.txt pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*p['dependencies'], *p['optional-dependencies']['standard'], *p['optional-dependencies']['policy'], sep='\n')" > requirements.txt \
    && /opt/pointsman/bin/pip install -c constraints.txt -r requirements.txt
COPY README.md ./
COPY server server
RUN pip wheel --no-deps --wheel-dir /dist . \
    && /opt/pointsman/bin/pip install -c constraints.txt "$(ls /dist/pointsman-*.whl)[standard,policy,http,telemetry]" \
    && /opt/pointsman/bin/pip check

FROM python:3.11-slim-bookworm
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="pointsman" \
      org.opencontainers.image.description="Sends every prompt down the right track: a local specialist, or the cloud." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# xllamacpp is linked against the system's libgomp; faiss brings its own, onnxruntime needs none.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends 'libgomp1=12.2.*' \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    && groupadd --gid 10001 pointsman \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /models \
        --shell /usr/sbin/nologin pointsman \
    && install --directory --owner=10001 --group=10001 /models
COPY --from=builder /opt/pointsman /opt/pointsman
COPY intents /etc/pointsman/intents
COPY specialists /etc/pointsman/specialists
# A settings file is read from /etc/pointsman/pointsman.yaml where one is mounted; keys come by environment.
ENV PATH=/opt/pointsman/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/models/huggingface \
    POINTSMAN_SERVER__ADDRESS=0.0.0.0:50051 \
    POINTSMAN_SERVER__METRICS_ADDRESS=0.0.0.0:9464 \
    POINTSMAN_PATHS__INTENTS=/etc/pointsman/intents \
    POINTSMAN_PATHS__SPECIALISTS=/etc/pointsman/specialists \
    POINTSMAN_PATHS__MODELS=/models \
    POINTSMAN_PATHS__CACHE=/models/cache \
    POINTSMAN_LEDGER__URL=sqlite:////models/ledger.db
WORKDIR /etc/pointsman
VOLUME /models
USER 10001:10001
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
# The first start fetches models before it listens, hence the long start period.
HEALTHCHECK --interval=15s --timeout=5s --start-period=5m --retries=3 \
    CMD ["python", "-m", "pointsman.service.probe", "127.0.0.1:50051"]
ENTRYPOINT ["pointsman"]
CMD ["serve"]
