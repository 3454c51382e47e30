# The service as a container image.
#
#   docker build -t blip2-executor .                                        with CUDA, for a GPU host
#   docker build -t blip2-executor:cpu \
#       --build-arg BASE_IMAGE=python:3.11-slim-bookworm \
#       --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu .  slim, CPU only
#   ... --build-arg CHECKPOINT=demo/checkpoint                              with a checkpoint baked in
#
#   docker run --gpus all -p 54321:54321 -v blip2-models:/models blip2-executor

# torch's wheel for CUDA 13.0 carries the CUDA libraries itself, so the smallest flavour of the CUDA images is enough.
# The driver comes from the host. UBI 9, because it has Python 3.11: the Ubuntu flavours have 3.10, for which transformers
# ends at 5.20, or 3.12, for which there is no jina.
ARG BASE_IMAGE=nvidia/cuda:13.0.2-base-ubi9
FROM ${BASE_IMAGE}

# Images named python:3.11* bring the interpreter, UBI 9 and Debian 12 have it as a package. DL3008 and DL3041 want
# versions for packages: the base image, an argument, decides the distribution, so none fits.
# A tmpfs mounted on HOME takes over its mode, not its owner: hence 1777. jina makes its cache as soon as it is imported;
# there already, a read-only root without such a mount does not stop it.
# hadolint ignore=DL3008,DL3041
RUN if command -v python3.11 >/dev/null; then \
        python3.11 --version; \
    elif command -v dnf >/dev/null; then \
        dnf install --assumeyes --setopt=install_weak_deps=False python3.11 python3.11-pip && \
        dnf clean all; \
    else \
        apt-get update && \
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
            ca-certificates python3.11 python3.11-venv && \
        rm -rf /var/lib/apt/lists/*; \
    fi && \
    python3.11 -m venv /opt/venv && \
    useradd --uid 1000 --create-home --shell /usr/sbin/nologin blip2 && \
    chmod 1777 /home/blip2 && \
    install --directory --owner=blip2 --group=blip2 /models /home/blip2/.cache /home/blip2/.cache/jina

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/home/blip2 \
    HF_HOME=/models \
    HF_HUB_DISABLE_TELEMETRY=1 \
    JINA_OPTOUT_TELEMETRY=1

# Everything that is slow depends on requirements.txt alone: a change of the code does not install anything again.
# torch's own tests are 120 MB that nothing here runs.
# PIP_CONFIG_FILE is for networks with a package index of their own, see docs/containers.md.
ARG TORCH_INDEX_URL=""
ARG PIP_CONFIG_FILE
WORKDIR /app
COPY requirements.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --cache-dir /root/.cache/pip --disable-pip-version-check \
        ${TORCH_INDEX_URL:+--extra-index-url "${TORCH_INDEX_URL}"} \
        --requirement requirements.txt && \
    rm -rf /opt/venv/lib/python3.11/site-packages/torch/test /opt/venv/lib/python3.11/site-packages/torch/bin/test_*

# A checkpoint directory of the build context, kept under the same relative path. COPY cannot be left out: without a
# checkpoint it copies the licence, which belongs into the image anyway.
ARG CHECKPOINT=""
COPY ${CHECKPOINT:-LICENSE} ./${CHECKPOINT}/
ENV BLIP2_MODEL=${CHECKPOINT:-Salesforce/blip2-flan-t5-xl}

COPY LICENSE config.yml ./
COPY executor/ executor/

ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="blip2-executor" \
      org.opencontainers.image.description="A Jina Executor that serves BLIP-2 for visual question answering over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

USER 1000:1000
VOLUME /models
EXPOSE 54321

# While the model is loaded health says NOT_SERVING; the first start may have to download 16 GB. The check imports grpc
# alone, and takes a tenth of a second.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
    CMD ["python", "-m", "executor", "health"]

ENTRYPOINT ["python", "-m", "executor", "--host", "0.0.0.0", "--port", "54321"]
