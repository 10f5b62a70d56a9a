"""The trainer with one mistake in its adapters, named by BROKEN: what test_mutations.py must see."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

from megatron_patch.backend import enable

enable("cpu")

from megatron_patch.peft import insert, lora  # noqa: E402
from megatron_patch.trainer.entry import main  # noqa: E402


def exchange_k_and_v(fill: Any) -> Any:
    def broken(self: Any, whole: dict[str, Any]) -> None:
        fill(self, whole | {"k": whole["v"], "v": whole["k"]} if "k" in self.held else whole)

    return broken


def forget_alpha(init: Any) -> Any:
    def broken(self: Any, linear: Any, settings: Any, **rest: Any) -> None:
        from dataclasses import replace

        init(self, linear, replace(settings, alpha=float(settings.rank)), **rest)

    return broken


def one_layer_off(add: Any) -> Any:
    def broken(chunks: Any, settings: Any, model: Any, *, seed: int, start: Any) -> Any:
        count = len(start)
        return add(chunks, settings, model, seed=seed, start={n: start[(n + 1) % count] for n in start})

    return broken


def transpose_b(fill: Any) -> Any:
    """Of the same shape, but column by column."""

    def broken(self: Any, whole: dict[str, Any]) -> None:
        fill(self, {t: (a, b.t().reshape(b.shape)) for t, (a, b) in whole.items()})

    return broken


def forget_the_sum_over_tokens(mark: Any) -> Any:
    """Replicated adapters' gradients under sequence parallelism."""

    def broken(parameter: torch.nn.Parameter, *, axis: int | None, config: Any) -> None:
        mark(parameter, axis=axis, config=config)
        parameter.sequence_parallel = False  # type: ignore[attr-defined]

    return broken


BROKEN = os.environ["BROKEN"]
if BROKEN == "k and v":
    lora.Adapters.fill = exchange_k_and_v(lora.Adapters.fill)  # type: ignore[method-assign]
elif BROKEN == "alpha":
    lora.Adapters.__init__ = forget_alpha(lora.Adapters.__init__)  # type: ignore[method-assign]
elif BROKEN == "layer":
    from megatron_patch.trainer import adapters

    adapters.add_adapters = one_layer_off(insert.add_adapters)  # type: ignore[attr-defined]
elif BROKEN == "B":
    lora.Adapters.fill = transpose_b(lora.Adapters.fill)  # type: ignore[method-assign]
elif BROKEN == "sum":
    lora._mark = forget_the_sum_over_tokens(lora._mark)
else:
    sys.exit(f"BROKEN is {BROKEN!r}")

if __name__ == "__main__":
    main()
