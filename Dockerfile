# Two images; see docs/docker.md.
#
#     docker build --target serve -t tagger-serve .
#     docker build --target worker -t tagger-worker .
FROM python:3.11.14-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DO_NOT_TRACK=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PWD=/app \
    TAGGER_CACHE=/cache
# PyTorch's default wheels bring 5 GB of CUDA; with the index of its CPU build as TORCH_INDEX they do not
ARG TORCH_INDEX=
# hadolint ignore=DL3013
RUN pip install torch torchvision ${TORCH_INDEX:+--index-url $TORCH_INDEX}
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY tagger tagger
COPY flows flows
RUN useradd --create-home --uid 10001 tagger \
    && mkdir /cache /data /models \
    && chown tagger /cache /data
VOLUME ["/cache", "/data"]

# The prediction server. Mount a checkpoint at /models/model.
FROM base AS serve
# hadolint ignore=DL3013
RUN pip install '.[serve,onnx,heic]'
USER 10001
EXPOSE 8000
HEALTHCHECK --start-period=120s --interval=30s --timeout=5s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["tagger", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["/models/model"]

# The worker of the nightly runs. PREFECT_API_URL is the address of a Prefect server.
FROM base AS worker
# hadolint ignore=DL3013
RUN pip install '.[s3,gcs,azure,http,onnx,heic]'
COPY prefect.yaml ./
USER 10001
HEALTHCHECK --start-period=60s --interval=30s --timeout=5s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
ENTRYPOINT ["prefect"]
CMD ["worker", "start", "--pool", "local", "--type", "process", "--with-healthcheck"]
