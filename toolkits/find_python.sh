#!/bin/sh
# Prints the absolute path of a Python 3.12 that can make a virtual environment, or says how to get one (exit 1).
# A name on PATH is no proof: pyenv leaves shims that only print an error, so every candidate is run.
set -u
case $0 in */*) here=${0%/*} ;; *) here=. ;; esac # there may be no dirname
# shellcheck source=toolkits/language.sh
. "$here/language.sh"

base_executable() { # prints where the interpreter itself lies (not a shim, not another venv), if it is a 3.12
    "$1" -c '
import sys
if sys.version_info[:2] != (3, 12):
    sys.exit(1)
print(getattr(sys, "_base_executable", None) or sys.executable)' 2>/dev/null
}

without_venv='' # a 3.12 that lacks ensurepip, as Debian ships it
try() {
    [ -x "$1" ] || return 1
    found=$(base_executable "$1") || return 1
    if "$found" -c 'import ensurepip, venv' 2>/dev/null; then
        printf '%s\n' "$found"
        exit 0
    fi
    without_venv=$found
    return 1
}

# 1. PATH, every folder of it: a broken shim in front must not hide a good interpreter behind.
IFS=:
for folder in $PATH; do
    for name in python3.12 python3 python; do try "$folder/$name"; done
done
unset IFS

# 2. What pyenv has built, whatever its global version is.
for folder in "${PYENV_ROOT:-/nonexistent}" "${HOME:-/nonexistent}/.pyenv"; do
    for python in "$folder"/versions/3.12*/bin/python3.12; do try "$python"; done
done

# 3. uv, which finds interpreters or brings its own.
if command -v uv >/dev/null 2>&1; then
    try "$(uv python find --no-project 3.12 2>/dev/null)"
    either "find_python: no Python 3.12 here; asking uv to install one" \
        "find_python: 这里没有 Python 3.12；让 uv 安装一个" >&2
    uv python install 3.12 >&2 && try "$(uv python find --no-project 3.12 2>/dev/null)"
fi

if [ -n "$without_venv" ]; then
    either "find_python: $without_venv is a Python 3.12 without its venv module; on Debian and Ubuntu: apt-get install \
python3.12-venv" "find_python: $without_venv 是 Python 3.12，但缺少 venv 模块；在 Debian 和 Ubuntu 上：apt-get install \
python3.12-venv" >&2
else
    either "find_python: no working Python 3.12 on PATH, in pyenv's versions or through uv (megatron-core needs 3.12). \
One of these gets it:" "find_python: PATH、pyenv 的各版本和 uv 中都没有可用的 Python 3.12（megatron-core 需要 3.12）。任选一种方法：" >&2
    cat >&2 <<'TXT'
    apt-get install python3.12 python3.12-venv      (Ubuntu 24.04)
    pyenv install 3.12
    uv python install 3.12
    conda create -n py312 python=3.12; conda activate py312
TXT
fi
exit 1
