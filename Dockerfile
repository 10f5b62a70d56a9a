# The project in an image: docs/container.md. The base is anything with Python 3.12.
#
#   docker build -t megatron-patch .                                                             CPU: plans, data, tests
#   docker build -t megatron-patch --build-arg BASE=nvcr.io/nvidia/pytorch:YY.MM-py3 .           with the base's torch and Transformer Engine
#   docker build -t megatron-patch --build-arg BASE=nvidia/cuda:...-cudnn-devel-ubuntu24.04 \
#       --build-arg TRANSFORMER_ENGINE=compile .                                                 with the pinned ones, compiled here
ARG BASE=python:3.12-slim-bookworm
# hadolint ignore=DL3006
FROM ${BASE}

ARG TRANSFORMER_ENGINE=none
ENV VIRTUAL_ENV=/opt/venv
WORKDIR /workspace/megatron-patch

COPY requirements.txt requirements-gpu.txt ./
COPY toolkits/container_setup.sh toolkits/find_python.sh toolkits/language.sh toolkits/
RUN sh toolkits/container_setup.sh "${TRANSFORMER_ENGINE}"

COPY . .
ENV PATH=/opt/venv/bin:${PATH} PYTHON=/opt/venv/bin/python PYTHONPATH=/workspace/megatron-patch
RUN python -m megatron_patch.cli --version

CMD ["python", "-m", "megatron_patch.cli", "--help"]
