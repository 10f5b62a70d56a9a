"""`python -m megatron_patch.doctor [--json]`: 0 if this machine can train, 1 if something is wrong."""

from __future__ import annotations

import json
import sys

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.messages import localized
from megatron_patch.common.terminal import guard
from megatron_patch.doctor.checks import examine
from megatron_patch.doctor.findings import as_json, is_wrong, report


def main() -> int:
    """Examine and report."""
    parser = ArgumentParser(
        prog="python -m megatron_patch.doctor",
        description=localized("doctor-about"),
    )
    parser.add_argument("--json", action="store_true", help=localized("doctor-help-json"))
    args = parser.parse_args()
    findings = examine()
    print(json.dumps(as_json(findings), indent=1) if args.json else report(findings))
    return 1 if is_wrong(findings) else 0


if __name__ == "__main__":
    guard()
    sys.exit(main())
