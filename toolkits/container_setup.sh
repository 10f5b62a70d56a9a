#!/bin/sh
# Inside an image that is being built (Dockerfile): makes $VIRTUAL_ENV from the base's Python 3.12 and fills it.
# usage: container_setup.sh none|compile, from the folder of the requirement files
#
# A base that has torch keeps it, with the Transformer Engine that was built for it (NVIDIA's PyTorch image); all else
# is as requirements.txt pins it. A base without gets the pinned torch, and with `compile` Transformer Engine, which
# takes nvcc, the cuDNN headers and a quarter of an hour.
set -eu

. toolkits/language.sh
engine=${1:-}
case $engine in none | compile) ;; *)
    either "container_setup: TRANSFORMER_ENGINE is '$engine'; valid: none, compile" \
        "container_setup: TRANSFORMER_ENGINE 是 '$engine'；可用：none、compile" >&2
    exit 2
    ;;
esac
unset PIP_CONSTRAINT # NVIDIA's images pin their own versions of what requirements.txt pins
base=$(sh toolkits/find_python.sh)
wanted=$(sed -n 's/^torch==//p' requirements.txt)

if has=$("$base" -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null); then
    case $has in "$wanted"*) ;; *)
        either "container_setup: the base has torch $has, and this project is made for $wanted: another base, please" \
            "container_setup: 基础镜像里是 torch $has，而本项目用的是 $wanted：请换一个基础镜像" >&2
        exit 1
        ;;
    esac
    [ "$engine" = none ] || either "container_setup: torch $has of the base is kept, with its Transformer Engine; \
nothing is compiled" "container_setup: 保留基础镜像里的 torch $has 和 Transformer Engine；不做编译" >&2
    engine=none
    "$base" -m venv --system-site-packages "$VIRTUAL_ENV"
    grep -v '^torch==' requirements.txt >"$VIRTUAL_ENV/requirements.txt"
    either "container_setup: torch $has of the base is kept" "container_setup: 保留基础镜像里的 torch $has"
else
    "$base" -m venv "$VIRTUAL_ENV"
    cp requirements.txt "$VIRTUAL_ENV/requirements.txt"
fi
pip() { "$VIRTUAL_ENV/bin/python" -m pip install --no-cache-dir --disable-pip-version-check --quiet "$@"; }
pip -r "$VIRTUAL_ENV/requirements.txt"
[ "$engine" = none ] || pip --no-build-isolation -r requirements-gpu.txt
"$VIRTUAL_ENV/bin/python" -c 'import megatron.training.training, torch, transformers; print("container_setup: torch", torch.__version__)'
