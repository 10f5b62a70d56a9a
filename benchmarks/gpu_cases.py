"""What train_gpu.py measures: configurations as rows, in suites. Facts only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

CUT_SHAPES = {"8B-L2": ("8B", 2), "8B-L4": ("8B", 4), "8B-L8": ("8B", 8)}
"""Models of full width and few layers, by name: size and layers."""
DETERMINISTIC = {"NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0"}
"""cuDNN's backward pass adds in one order."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training run, as somebody would type it."""

    name: str
    size: str = "8B-L4"
    micro: int = 1
    batch: int = 8
    """Sequences of one iteration, over all ranks."""
    seq: int = 8192
    pr: str = "bf16"
    tp: int = 1
    pp: int = 1
    cp: int = 1
    sp: bool = False
    do: bool = True
    fl: bool = True
    ac: str = "false"
    offload: str = "false"
    start: str = "none"
    steps: int = 8
    processes: int = 1
    save_interval: int | None = None
    """Without it nothing is saved, not even at the end."""
    env: Mapping[str, str] = field(default_factory=dict)
    megatron: str = ""
    """More flags for Megatron's parser (MP_MEGATRON_ARGS)."""
    seconds: float = 120.0
    """The run is stopped after that long."""
    keep_folder: bool = False
    """Go on from the checkpoint that an earlier case of this name left."""

    def values(self, *, data: str, output: str) -> list[str]:
        """The 25 values of the driver."""
        tokens = self.steps * self.batch * self.seq
        return [
            *("dsw", self.size, str(self.micro), str(self.batch), "1e-4", "1e-5", str(self.seq), str(self.seq)),
            *(self.pr, str(self.tp), str(self.pp), str(self.cp), _word(self.sp), _word(self.do), _word(self.fl)),
            *("false", self.ac, self.offload, str(self.save_interval or 100000), data, "none", self.start),
            *(str(tokens), str(2 * self.batch * self.seq), output),
        ]

    def environment(self) -> dict[str, str]:
        """What is set beside the 25 values."""
        extra = {"MP_MEGATRON_ARGS": self.megatron} if self.megatron else {}
        return dict(self.env) | extra | {"MP_NPROC": str(self.processes)}


def _word(value: bool) -> str:
    return str(value).lower()


PLAIN = Case(name="bf16")
FP8 = Case(name="fp8", pr="fp8")
PROFILED = {"BENCH_PROFILE": "6"}
NATIVE_CE = {"BENCH_NATIVE_CROSS_ENTROPY": "1"}
ROPE, ACTIVATION = "--fused-single-qkv-rope", "--use-te-activation-func --no-bias-swiglu-fusion"
FUSER = "--use-transformer-engine-op-fuser"

SUITES: dict[str, list[Case]] = {
    "smoke": [  # the script itself, also without a GPU
        Case(name="smoke", size="tiny", seq=128, batch=4, steps=5),
        Case(name="smoke-fails", size="tiny", seq=128, batch=4, steps=5, megatron="--num-layers-at-end-in-bf16 x"),
        Case(name="smoke-two", size="tiny", seq=128, batch=4, steps=5, processes=2),
    ],
    "kernels": [
        replace(PLAIN, name="bf16-profile", env=PROFILED),
        replace(FP8, name="fp8-profile", env=PROFILED),
        replace(PLAIN, name="bf16-native-ce", env=NATIVE_CE),
        PLAIN,
        replace(PLAIN, name="bf16-rope", megatron=ROPE),
        replace(PLAIN, name="bf16-rope-act", megatron=f"{ROPE} {ACTIVATION}"),
        replace(PLAIN, name="bf16-rope-fuser", megatron=f"{ROPE} {FUSER}"),
        replace(PLAIN, name="bf16-sums-bf16", env={"MP_GRAD_REDUCE": "bf16"}),
        replace(PLAIN, name="bf16-micro2", micro=2),
        FP8,
        replace(FP8, name="fp8-rope-act", megatron=f"{ROPE} {ACTIVATION}"),
        replace(FP8, name="fp8-rope-fuser", megatron=f"{ROPE} {FUSER}"),
        replace(FP8, name="fp8-delayed", env={"MP_FP8_RECIPE": "delayed"}),
        replace(FP8, name="fp8-delayed-fuser", env={"MP_FP8_RECIPE": "delayed"}, megatron=f"{ROPE} {FUSER}"),
        replace(FP8, name="fp8-blockwise", env={"MP_FP8_RECIPE": "blockwise"}),
    ],
    "switches": [
        replace(PLAIN, name="plain", env=DETERMINISTIC),
        replace(PLAIN, name="ac-sel", ac="sel", env=DETERMINISTIC),
        replace(PLAIN, name="ac-full", ac="full", env=DETERMINISTIC),
        replace(PLAIN, name="ac-offload", ac="offload", env=DETERMINISTIC),
        replace(PLAIN, name="fl-false", fl=False, env=DETERMINISTIC),
        replace(PLAIN, name="do-false", do=False, env=DETERMINISTIC),
        replace(PLAIN, name="optimizer-offload", offload="static", env=DETERMINISTIC),
        replace(PLAIN, name="fp16", pr="fp16", env=DETERMINISTIC),
        replace(PLAIN, name="unfused-2048", seq=2048, env={"MP_ATTENTION_BACKEND": "unfused"}),
    ],
}
