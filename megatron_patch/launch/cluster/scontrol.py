"""What only Slurm's controller knows: names and addresses of nodes."""

from __future__ import annotations

import re

SECONDS = 30
"""A controller that does not answer in this time is down."""


class SlurmError(RuntimeError):
    """A command of Slurm's failed; the message is what it said."""


def ask(*command: str) -> str:
    """Output of one of Slurm's commands.

    Raises:
        SlurmError: it is not installed, failed, or did not answer.
    """
    import subprocess  # 10 ms that only Slurm's users pay

    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except FileNotFoundError:
        raise SlurmError(f"{command[0]} is not installed here: is this a machine of the Slurm cluster?") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer within {SECONDS} s: Slurm's controller is down") from None
    if done.returncode:
        raise SlurmError(f"{command[0]}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def first_address(nodelist: str) -> str:
    """The address of the first node of a Slurm node list such as `gpu[03-06,09]`.

    A node's name need not be a host name: its NodeAddr is what Slurm itself talks to.
    """
    first = ask("scontrol", "show", "hostnames", nodelist).split()[0]
    found = re.search(r"\bNodeAddr=(\S+)", ask("scontrol", "show", "node", first))
    return found.group(1) if found else first


def has_option(command: str, option: str) -> bool:
    """Whether a command knows an option: plug-ins such as pyxis add theirs to `--help`."""
    return option in ask(command, "--help")
