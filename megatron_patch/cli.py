"""`megatron-patch COMMAND ...`: one command over all; each is the `python -m` of a module, imported when chosen."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_patch import __version__
from megatron_patch.common import tools
from megatron_patch.common.messages import Message, localized
from megatron_patch.common.terminal import guard

USAGE_ERROR = 2


@dataclass(frozen=True, kw_only=True)
class Subcommand:
    """What runs, and what the list says of it."""

    module: str
    """Below megatron_patch."""
    meaning: str
    """A code of the catalogue."""
    before: tuple[str, ...] = ()
    """Words in front of the user's own."""
    after: tuple[str, ...] = ()


COMMANDS = {
    "train": Subcommand(module="launch", meaning="cli-train"),
    "plan": Subcommand(module="planner", meaning="cli-plan"),
    "convert": Subcommand(module="checkpoint", meaning="cli-convert"),
    "check": Subcommand(module="checkpoint", after=("--check-only",), meaning="cli-check"),
    "verify": Subcommand(module="checkpoint", before=("verify",), meaning="cli-verify"),
    "export": Subcommand(module="checkpoint.export", meaning="cli-export"),
    "adapters": Subcommand(module="checkpoint.adapters", meaning="cli-adapters"),
    "chat": Subcommand(module="generate.chat", meaning="cli-chat"),
    "generate": Subcommand(module="generate", meaning="cli-generate"),
    "evaluate": Subcommand(module="evaluation", meaning="cli-evaluate"),
    "compare": Subcommand(module="evaluation.compare", meaning="cli-compare"),
    "report": Subcommand(module="report", meaning="cli-report"),
    "watch": Subcommand(module="watch", meaning="cli-watch"),
    "doctor": Subcommand(module="doctor", meaning="cli-doctor"),
    "data pretrain": Subcommand(module="data.preprocess", meaning="cli-data-pretrain"),
    "data sft": Subcommand(module="data.sft.build_idxmap", meaning="cli-data-sft"),
    "data inspect": Subcommand(module="data.sft.inspection", meaning="cli-data-inspect"),
    "data verify": Subcommand(module="data.verify", meaning="cli-data-verify"),
    "data tokenizer": Subcommand(module="data.train_tokenizer", meaning="cli-data-tokenizer"),
    "new-model": Subcommand(module="checkpoint.random_model", meaning="cli-new-model"),
}
"""By the words that choose them; a new command is one row."""
SHELLS = ("bash", "zsh")


def main(argv: Sequence[str] | None = None) -> int:
    """Choose a command and become it; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0 if words else USAGE_ERROR
    if words == ["--version"]:
        print(f"megatron-patch {__version__}")
        return 0
    if words[0] == "completion":
        return _completion(words[1:])
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS), None)
    if name is None:
        return _unknown(words)
    rest = words[len(name.split()) :]
    if name == "train" and (problem := _needs_checkout(rest)):
        print(problem, file=sys.stderr)
        return USAGE_ERROR
    tools.started_as = f"megatron-patch {name}"
    try:
        return run(COMMANDS[name], rest)
    finally:
        tools.started_as = None


def run(command: Subcommand, words: Sequence[str]) -> int:
    """Run a module as `python -m` would, and return its exit status."""
    wants_help = "-h" in words or "--help" in words
    sys.argv[1:] = [*command.before, *words, *(() if wants_help else command.after)]
    try:
        runpy.run_module(f"megatron_patch.{command.module}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return int(end.code or 0)
    return 0


def help_text(first: str = "") -> str:
    """All commands, one a line; or those that begin with this word."""
    width = max(map(len, COMMANDS))
    chosen = {name: command for name, command in COMMANDS.items() if name.startswith(first)}
    lines = [f"  {name:<{width}}  {localized(command.meaning)}" for name, command in chosen.items()]
    if not first:
        lines += [f"  {'completion':<{width}}  {localized('cli-completion', shells='|'.join(SHELLS))}"]
    return "\n".join([localized("cli-usage"), "", *lines])


def _unknown(words: Sequence[str]) -> int:
    parts = [name.split()[1] for name in COMMANDS if name.startswith(f"{words[0]} ")]
    if parts and words[1:] in (["--help"], ["-h"]):
        print(help_text(words[0]))
        return 0
    if parts:
        said = Message("cli-which-part", command=words[0], valid=parts)
        if words[1:]:
            said = Message("cli-not-part", word=repr(words[1]), command=words[0], valid=parts)
        print(said.localized(), file=sys.stderr)
        return USAGE_ERROR
    valid = list(dict.fromkeys([*(name.split()[0] for name in COMMANDS), "completion"]))
    print(localized("cli-not-command", word=repr(words[0]), valid=valid), file=sys.stderr)
    return USAGE_ERROR


def _needs_checkout(words: Sequence[str]) -> str:
    """What a wheel cannot do: clusters start the shell script, which lies in a checkout only."""
    script = Path(__file__).parents[1] / "examples" / "llama3_1" / "run_mcore_llama3_1.sh"
    if script.is_file() or (words[:1] != ["slurm"] and "--emit" not in words):
        return ""
    what = "ENV=slurm" if words[:1] == ["slurm"] else "--emit"
    return localized("cli-needs-checkout", what=what)


def flags_of(command: Subcommand) -> list[str]:
    """The flags that its help names."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        run(command, ["--help"])
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]", said.getvalue())))


def _completion(words: Sequence[str]) -> int:
    if len(words) != 1 or words[0] not in SHELLS:
        print(localized("cli-completion-usage", shells="|".join(SHELLS)), file=sys.stderr)
        return USAGE_ERROR
    print(completion(words[0]))
    return 0


def completion(shell: str) -> str:
    """A script to be sourced, made from the table above and each command's own help."""
    first = sorted({name.split()[0] for name in COMMANDS} | {"completion", "--help", "--version"})
    cases = [f"        {name!r}) words={' '.join(flags_of(command))!r} ;;" for name, command in COMMANDS.items()]
    data = " ".join(name.split()[1] for name in COMMANDS if name.startswith("data "))
    return BASH.format(
        zsh="autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "",
        first=" ".join(first),
        data=data,
        shells=" ".join(SHELLS),
        cases="\n".join(cases),
    )


BASH = """# megatron-patch completion: source this file, or `source <(megatron-patch completion bash)`
{zsh}_megatron_patch() {{
    local here=${{COMP_WORDS[COMP_CWORD]}} name=${{COMP_WORDS[1]}} words=''
    if [ "$COMP_CWORD" = 1 ]; then
        COMPREPLY=($(compgen -W '{first}' -- "$here"))
        return
    fi
    if [ "$COMP_CWORD" = 2 ]; then
        case $name in
        data) COMPREPLY=($(compgen -W '{data}' -- "$here")) && return ;;
        completion) COMPREPLY=($(compgen -W '{shells}' -- "$here")) && return ;;
        esac
    fi
    [ "$name" = data ] && name="data ${{COMP_WORDS[2]}}"
    case $name in
{cases}
    esac
    case $here in
    -*) COMPREPLY=($(compgen -W "$words" -- "$here")) ;;
    *) COMPREPLY=($(compgen -f -- "$here")) ;;
    esac
}}
complete -o filenames -F _megatron_patch megatron-patch"""


if __name__ == "__main__":
    guard()
    sys.exit(main())
