#!/bin/sh
# Makes .venv and installs what the project needs into it, and nothing anywhere else. Quick when nothing changed.
#
#   toolkits/setup.sh            runtime; with Transformer Engine where there is an NVIDIA GPU
#   toolkits/setup.sh --dev      and what tests and checks need
#   --cpu, --gpu                 decide that instead of looking (a login node preparing for its GPU nodes)
#
# VENV names another folder than .venv. A mirror set for pip (index-url) is used for uv too.
set -eu

uv_version=0.13.8
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
venv=${VENV:-.venv}
python=$venv/bin/python
marker=$venv/.installing

. toolkits/language.sh
say() { printf 'setup: %s\n' "$(either "$1" "$2")"; } # ENGLISH CHINESE
fail() {
    printf 'setup: %s\n' "$(either "$1" "$2")" >&2
    exit "${status:-1}"
}
show_help() {
    if [ "$language" != zh ]; then sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; else
        cat <<'TXT'
建立 .venv 并把本项目需要的软件包装进去，不改动其他任何地方。没有变化时很快结束。

  toolkits/setup.sh            运行所需；有 NVIDIA GPU 时包括 Transformer Engine
  toolkits/setup.sh --dev      再加上测试和检查所需
  --cpu、--gpu                 直接指定，不去检测（例如在登录节点上为 GPU 节点做准备）

VENV 可以指定 .venv 以外的文件夹。为 pip 设置的镜像（index-url）也用于 uv。
TXT
    fi
}

with_dev=no device=look because=$(either 'no NVIDIA GPU answers' '没有检测到 NVIDIA GPU')
for option in "$@"; do
    case $option in
    --dev) with_dev=yes ;;
    --cpu | --gpu) device=${option#--} because=$option ;;
    -h | --help)
        show_help
        exit 0
        ;;
    *)
        status=2 fail "unknown option '$option'; valid: --dev, --cpu, --gpu, --help" \
            "未知选项 '$option'；可用：--dev、--cpu、--gpu、--help"
        ;;
    esac
done

venv_works() { "$python" -c 'import pip, sys; sys.exit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1; }

make_venv() {
    if [ -f "$marker" ]; then
        other=$(cat "$marker")
        if kill -0 "$other" 2>/dev/null; then
            fail "process $other is setting up $venv right now; wait for it (or, if it is not: make clean-venv)" \
                "进程 $other 正在安装 $venv；请等它结束（如果并非如此：make clean-venv）"
        fi
        say "$venv was left half-made: making it anew" "$venv 上次没有装完：重新建立"
        rm -rf "$venv"
    elif [ -e "$venv" ] && ! venv_works; then
        say "$venv has no working Python 3.12: making it anew" "$venv 里没有可用的 Python 3.12：重新建立"
        rm -rf "$venv"
    fi
    if [ ! -e "$venv" ]; then
        base=$(sh toolkits/find_python.sh)
        say "$venv from $base" "用 $base 建立 $venv"
        mkdir -p "$venv"
        echo $$ >"$marker"
        "$base" -m venv "$venv"
    fi
    echo $$ >"$marker"
}

has_gpu() { # NVML answers: the same question as nvidia-smi, which small containers lack
    "$1" -c '
import ctypes, sys
try:
    nvml, count = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_uint(0)
    sys.exit(0 if nvml.nvmlInit_v2() == 0 and nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0 and count.value else 1)
except OSError:
    sys.exit(1)'
}

have_uv() {
    if "$python" -m uv --version >/dev/null 2>&1; then return 0; fi
    "$python" -m pip install --quiet --disable-pip-version-check "uv==$uv_version"
}

install() { # requirement files and flags
    if [ "$installer" = uv ]; then
        "$python" -m uv pip install --quiet --python "$python" "$@" && return 0
        say "uv could not install that (see above): trying pip, which takes longer" "uv 安装失败（见上）：改用 pip，需要更长时间"
    fi
    "$python" -m pip install --quiet --disable-pip-version-check "$@"
}

files=requirements.txt
if [ "$device" = look ]; then
    # Where there is no .venv yet, the question waits for the interpreter that will make it.
    if venv_works; then probe=$python; else probe=$(sh toolkits/find_python.sh); fi
    if has_gpu "$probe"; then device=gpu because=$(either 'an NVIDIA GPU answers' '检测到 NVIDIA GPU'); else device=cpu; fi
fi
if [ "$device" = gpu ]; then files="$files requirements-gpu.txt"; fi
if [ "$with_dev" = yes ]; then files="$files requirements-dev.txt"; fi

# The stamp holds the checksum of every file that was installed from.
stamp=$venv/.installed
# shellcheck disable=SC2086  # a list of our own file names
wanted=$(cksum toolkits/setup.sh $files)
is_current() {
    if [ -f "$marker" ] || [ ! -f "$stamp" ]; then return 1; fi
    printf '%s\n' "$wanted" | while read -r line; do grep -qxF "$line" "$stamp" || exit 1; done && venv_works
}
if is_current; then
    say "$venv holds $files already" "$venv 已经装好 $files"
    exit 0
fi

if [ "$device" = gpu ]; then
    say "$because: requirements-gpu.txt comes too. Transformer Engine's torch extension is compiled here, which may take \
a quarter of an hour; it needs nvcc, a C++ compiler and the cuDNN headers; --cpu leaves it out" \
        "$because：同时安装 requirements-gpu.txt。Transformer Engine 的 torch 扩展在本机编译，可能需要一刻钟；\
它需要 nvcc、C++ 编译器和 cuDNN 头文件；--cpu 则不安装它"
    command -v nvcc >/dev/null 2>&1 || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ] ||
        fail "no nvcc on the PATH or in ${CUDA_HOME:-/usr/local/cuda}/bin: install the CUDA toolkit, or set CUDA_HOME" \
            "PATH 和 ${CUDA_HOME:-/usr/local/cuda}/bin 里都没有 nvcc：请安装 CUDA 工具包，或设置 CUDA_HOME"
fi
make_venv
if have_uv; then installer=uv; else
    installer=pip
    say "uv cannot be had: installing with pip, which takes longer" "得不到 uv：用 pip 安装，需要更长时间"
fi
mirror=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$("$python" -m pip config get global.index-url 2>/dev/null || true)}}
if [ -n "$mirror" ]; then export UV_DEFAULT_INDEX="$mirror"; fi
export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-300}"

say "installing requirements.txt with $installer" "用 $installer 安装 requirements.txt"
install -r requirements.txt
if [ "$device" = gpu ]; then
    # Transformer Engine compiles its torch extension against the torch that is installed, so no build isolation.
    install --no-build-isolation -r requirements-gpu.txt ||
        fail "Transformer Engine could not be built: it needs nvcc and the cuDNN headers; --cpu leaves it out" \
            "Transformer Engine 编译失败：它需要 nvcc 和 cuDNN 头文件；--cpu 则不安装它"
else
    say "$because: requirements-gpu.txt is left out, training runs on the CPU" \
        "$because：不安装 requirements-gpu.txt，训练在 CPU 上进行"
fi
if [ "$with_dev" = yes ]; then
    say "adding requirements-dev.txt" "再安装 requirements-dev.txt"
    install -r requirements-dev.txt
fi

# The first import proves the installation, and writes the byte code that every later start reads.
env -u PYTHONDONTWRITEBYTECODE "$python" - <<'PY' || fail "the packages are installed but do not import (see above)" "软件包已经装上，但无法导入（见上）"
import importlib.metadata as metadata
import logging, sys, warnings
logging.disable(logging.WARNING)  # torch looks for a CUDA compiler here and says so
warnings.simplefilter("ignore")
import megatron.training.training, torch, transformers.models.auto.tokenization_auto
versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "megatron-core", "transformers"))
device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
print(f"setup: Python {sys.version.split()[0]}, {versions}, {device}")
PY
printf '%s\n' "$wanted" >"$stamp"
rm -f "$marker"
say "$venv is ready" "$venv 已就绪"
