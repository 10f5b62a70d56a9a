"""The Dockerfile: linted, and what `--emit k8s` writes finds its script in the image."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml  # type: ignore[import-untyped]

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = REPOSITORY / "Dockerfile"


def copied() -> set[str]:
    """Tracked files that `COPY . .` takes: .dockerignore leaves out a name, and what lies below it."""
    patterns = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    listed = subprocess.check_output(["git", "ls-files"], cwd=REPOSITORY, text=True).split("\n")

    def left_out(name: str) -> bool:
        parts = name.split("/")
        below = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        return any(fnmatch.fnmatchcase(one, pattern) for one in below for pattern in patterns)

    return {name for name in listed if name and not left_out(name)}


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_has_what_runs_and_no_more() -> None:
    inside = copied()
    assert {"megatron_patch/cli.py", "examples/qwen3/run_mcore_qwen3.sh", "toolkits/chat.sh", "README.md"} <= inside
    assert not [name for name in inside if name.startswith(("tests/", "runs/", ".git/"))]


def test_what_kubernetes_starts_is_in_the_image() -> None:
    """The example is what `--emit k8s` writes (tests/launch): its project's folder is the image's."""
    (folder,) = re.findall(r"^WORKDIR (\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    jobs = yaml.safe_load_all((REPOSITORY / "examples/llama3_1/dlc/llama31-8b.yaml").read_text())
    first, second = (job["spec"] for job in jobs)
    container = first["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    for command in (container["command"], second["trainer"]["command"]):
        assert str(Path(command[4]).relative_to(folder)) in copied()


def run_setup(folder: Path, *words: str, torch: str | None) -> subprocess.CompletedProcess[str]:
    """container_setup.sh on a base whose Python 3.12 says that it has this torch; its pip is not reached."""
    scripts = (f"toolkits/{name}.sh" for name in ("container_setup", "find_python", "language"))
    for name in (*scripts, "requirements.txt", "requirements-gpu.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    base = folder / "bin"
    base.mkdir()
    has = f'echo "{torch}"; exit 0' if torch else "exit 1"
    (base / "python3.12").write_text(
        f"""#!/bin/sh
case "$*" in
*_base_executable*) echo "{base}/python3.12" ;;
*ensurepip*) ;;
*metadata*) {has} ;;
*venv*) for last; do :; done; mkdir -p "$last/bin"; printf '#!/bin/sh\necho pip "$@"\n' >"$last/bin/python"
    chmod +x "$last/bin/python"; echo made "$@" ;;
esac
"""
    )
    (base / "python3.12").chmod(0o755)
    environ = {"PATH": f"{base}:/usr/bin:/bin", "VIRTUAL_ENV": str(folder / "venv")}
    command = ["sh", "toolkits/container_setup.sh", *words]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=300)


def test_a_base_with_torch_keeps_it(tmp_path: Path) -> None:
    """NVIDIA's build of the pinned version, and the Transformer Engine beside it."""
    done = run_setup(tmp_path, "compile", torch="2.11.0a0+nv26.3")
    assert done.returncode == 0, done.stderr
    assert "made -m venv --system-site-packages" in done.stdout and "nothing is compiled" in done.stderr
    assert "requirements-gpu.txt" not in done.stdout
    lines = (tmp_path / "venv/requirements.txt").read_text().splitlines()
    assert set((tmp_path / "requirements.txt").read_text().splitlines()) - set(lines) == {"torch==2.11.0"}


def test_a_base_without_torch_gets_the_pinned_one(tmp_path: Path) -> None:
    done = run_setup(tmp_path, "compile", torch=None)
    assert done.returncode == 0, done.stderr
    assert "--system-site-packages" not in done.stdout
    assert done.stdout.index("venv/requirements.txt") < done.stdout.index(
        "--no-build-isolation -r requirements-gpu.txt"
    )
    assert "torch==2.11.0" in (tmp_path / "venv/requirements.txt").read_text()


def test_what_cannot_be_built_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    done = run_setup(tmp_path / "a", "none", torch="2.9.1")
    assert done.returncode == 1 and "has torch 2.9.1, and this project is made for 2.11.0" in done.stderr
    (tmp_path / "b").mkdir()
    done = run_setup(tmp_path / "b", "maybe", torch=None)
    assert done.returncode == 2 and "TRANSFORMER_ENGINE is 'maybe'; valid: none, compile" in done.stderr
