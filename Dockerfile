# Two images from one file:
#   api        FastAPI, migrations, command line: no torch
#   worker     Celery workers, trainer, generator: torch for the CPU, or for CUDA with --build-arg TORCH_INDEX=…
# Each runs as an unprivileged user and writes below /var/lib/weightsmith and /tmp only.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    UV_NO_CACHE=1 \
    UV_SYSTEM_PYTHON=1 \
    WEIGHTSMITH_HOME=/var/lib/weightsmith
RUN useradd --uid 10001 --user-group --home-dir /var/lib/weightsmith --create-home --shell /usr/sbin/nologin weightsmith
WORKDIR /app
COPY pyproject.toml constraints.txt ./
RUN pip install -c constraints.txt uv

FROM base AS api-packages
RUN uv pip install -c constraints.txt -r pyproject.toml --extra postgres --extra s3

FROM base AS worker-packages
# A C++ compiler lets torch.compile work; without one the plain path runs.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
# First torch, alone, from the index of the wanted build: the resolver then keeps it.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-deps -c constraints.txt --index-url ${TORCH_INDEX} torch
RUN uv pip install -c constraints.txt -r pyproject.toml --extra train --extra postgres --extra export --extra s3

FROM worker-packages AS worker
COPY . .
RUN uv pip install --no-deps -e .
USER weightsmith
# The queue, the number of runs at once and the health check differ by service: see docker-compose.yml.
CMD ["celery", "-A", "worker.app", "worker", "-Q", "train", "--concurrency", "1", "--without-gossip", "--without-mingle"]

FROM api-packages AS api
COPY . .
RUN uv pip install --no-deps -e .
USER weightsmith
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=6 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["uvicorn", "--factory", "api.app:create_app", "--host", "0.0.0.0", "--port", "8000", \
     "--no-server-header", "--no-access-log", "--timeout-graceful-shutdown", "5"]
