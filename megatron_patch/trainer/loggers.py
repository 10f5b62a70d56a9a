"""What callbacks that log to another program have in common: who logs, what, and what happens where that fails.

Keys stay in the environment: the package reads them there. What is handed over are metrics and the plan's values.
"""

from __future__ import annotations

import json
import math
import os
import re
import uuid
from typing import Any, ClassVar

from megatron_patch.backend.hooks import Step
from megatron_patch.common.files import write_json
from megatron_patch.common.hardware import peak_tflops
from megatron_patch.common.messages import localized
from megatron_patch.runs.folder import PlanError, load_plan
from megatron_patch.trainer.callbacks.base import Callback, Rank
from megatron_patch.trainer.errors import TrainerError
from megatron_patch.trainer.metrics import step_record

IDS = "loggers.json"
"""In the run's folder: the id of this run at each logger, so that a resumed run goes on there."""
PROJECT = "megatron-patch"


class ExternalLogger(Callback):
    """A logger does `open`, `log` and `finish`; this decides when.

    What cannot be opened ends the run before its first step. Later a server that is gone does not: it is said once,
    and again at the end with the number of steps that are missing there.
    """

    name: ClassVar[str]
    """As in MP_LOGGERS."""
    priority = 10

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self.asked = False
        self._seq_length = 0
        self._missing = 0
        self._open = False

    def open(self, run_id: str, config: dict[str, Any], *, resumed: bool) -> None:
        """Begin, or go on with, the run of this id.

        Args:
            run_id: 32 hexadecimal digits, the same for all starts of a run.
            config: the plan's values, each a text, number, true or false.
        """
        raise NotImplementedError

    def log(self, metrics: dict[str, float], iteration: int) -> None:
        """Send finite numbers."""
        raise NotImplementedError

    def finish(self) -> None:
        """All is sent."""
        raise NotImplementedError

    @property
    def run_name(self) -> str:
        return self.rank.output_dir.resolve().name

    def arguments(self, args: Any) -> None:
        self.asked = self.name in args.loggers.split(",")

    def train_start(self, args: Any, model: list[Any]) -> None:
        if not self.asked:
            return
        self._seq_length = args.seq_length
        run_id, known = self._id(fresh=args.iteration == 0)
        try:
            self.open(run_id, self._config(), resumed=known)
        except Exception as error:
            raise TrainerError("logger-not-opened", name=self.name, error=_without_secrets(error)) from None
        self._open = True

    def step(self, step: Step) -> None:
        if self._open:
            peak, world_size = peak_tflops(self.rank.device), self.rank.world_size
            record = step_record(step, seq_length=self._seq_length, world_size=world_size, peak=peak)
            self._send({key: value for key, value in record.items() if key != "iteration"}, step.iteration)

    def evaluated(self, iteration: int, split: str, loss: float | None, parts: dict[str, float]) -> None:
        if self._open and loss is not None:
            of_parts = {f"{split}_loss_{number}": value for number, value in enumerate(parts.values(), 1)}
            self._send({f"{split}_loss": loss} | of_parts, iteration)

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        try:
            self.finish()
        except Exception as error:
            self.rank.screen.say(localized("logger-not-finished", name=self.name, error=type(error).__name__))
        if self._missing:
            self.rank.screen.say(localized("logger-missing", name=self.name, count=self._missing))

    def _send(self, record: dict[str, Any], iteration: int) -> None:
        metrics = {key: float(value) for key, value in record.items() if value is not None}
        try:
            self.log({key: value for key, value in metrics.items() if math.isfinite(value)}, iteration)
        except Exception as error:  # whatever a server or its client does: training is worth more
            if not self._missing:  # without the error's words, which may hold an address with a password
                kind = type(error).__name__
                self.rank.screen.say(localized("logger-silent", name=self.name, step=iteration, error=kind))
            self._missing += 1

    def _id(self, *, fresh: bool) -> tuple[str, bool]:
        """Of this run at this logger, and whether an earlier start has used it."""
        path = self.rank.output_dir / IDS
        try:
            ids = dict(json.loads(path.read_text()))
        except (OSError, ValueError):
            ids = {}
        known = not fresh and isinstance(ids.get(self.name), str)
        if not known:
            write_json(path, ids | {self.name: uuid.uuid4().hex})
            ids = json.loads(path.read_text())
        return ids[self.name], known

    def _config(self) -> dict[str, Any]:
        try:
            plan = load_plan(self.rank.output_dir) or {}
        except PlanError:
            plan = {}
        values = plan.get("values")
        return {key: value for key, value in values.items() if value is not None} if isinstance(values, dict) else {}


def _without_secrets(error: Exception) -> str:
    """What an error says, without passwords in addresses and without values of variables that hold keys."""
    said = re.sub(r"//[^/@\s]*@", "//***@", f"{type(error).__name__}: {error}")
    for name, value in os.environ.items():
        if value and re.search(r"KEY|TOKEN|PASSWORD|SECRET", name):
            said = said.replace(value, "***")
    return said
