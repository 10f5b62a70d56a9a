"""No step with a gradient that is NaN or inf, and no waiting for the device to find that out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from megatron_patch.backend.patching import BackendError, wrap


def refuse_non_finite_gradients() -> None:
    """End the run before the step whose gradient norm is NaN or infinite.

    Stands for Megatron 0.19.2's `--check-for-nan-in-loss-and-grad`, which asks the device twice in each micro batch
    and once for each bucket: it then runs dry for 3 ms a micro batch. The norm is computed for clipping anyway, over
    all ranks, and no NaN or inf escapes it. fp16 skips such steps before it comes to the norm.
    """
    from megatron.core.optimizer import optimizer

    @wrap(optimizer, "get_grad_norm_fp32", why="0.19.2 steps with a NaN unless it may wait for every micro batch")
    def get_grad_norm(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        norm = original(*args, **kwargs)
        if not math.isfinite(norm):  # a tensor of one number, or the number
            raise BackendError(
                f"the norm of the gradient is {float(norm)}: a loss or a gradient of this step is NaN or inf; the "
                "weights are those of the step before. A lower LR or a longer warm-up may help, or the data of this "
                "step are bad"
            )
        return norm
