"""What train_gpu.py measures: configurations as rows, in suites. Facts only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

CUT_SHAPES = {
    "8B-L2": ("8B", 2),
    "8B-L4": ("8B", 4),
    "8B-L8": ("8B", 8),
    "8B-L16": ("8B", 16),
    **{f"70B-L{count}": ("70B", count) for count in (2, 8, 16, 20, 22, 25, 42, 48)},
    **{f"405B-L{count}": ("405B", count) for count in (5, 6, 10, 13)},
    "qwen3-8B-L4": ("qwen3-8B", 4),
    "qwen2_5-7B-L4": ("qwen2_5-7B", 4),
    "tiny-L8": ("tiny", 8),
}
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
    """`given`: train_gpu.py's --start; `random`: a folder of random weights that train_gpu.py writes into --scratch."""
    steps: int = 8
    processes: int = 1
    save_interval: int | None = None
    """Without it nothing is saved, not even at the end."""
    env: Mapping[str, str] = field(default_factory=dict)
    megatron: str = ""
    """More flags for Megatron's parser (MP_MEGATRON_ARGS)."""
    seconds: float = 120.0
    """The run is stopped after that long."""
    reference: str = ""
    """Name of an earlier configuration whose losses these should be."""
    sft: str = ""
    """Finetune on conversations: `raw` or `idxmap`."""

    def values(self, *, data: str, output: str) -> list[str]:
        """The 25 values of the driver; SFT counts iterations, pretraining tokens."""
        unit = 1 if self.sft else self.batch * self.seq
        return [
            *("dsw", self.size, str(self.micro), str(self.batch), "1e-5", "1e-6", str(self.seq), str(self.seq)),
            *(self.pr, str(self.tp), str(self.pp), str(self.cp), _word(self.sp), _word(self.do), _word(self.fl)),
            *(_word(bool(self.sft)), self.ac, self.offload, str(self.save_interval or 100000)),
            *(data, "none", self.start, str(self.steps * unit), str(2 * unit), output),
        ]

    def environment(self) -> dict[str, str]:
        """What is set beside the 25 values."""
        extra = {"MP_MEGATRON_ARGS": self.megatron} if self.megatron else {}
        extra |= {"MP_DATASET_TYPE": self.sft, "MP_SFT_PACKING": "true"} if self.sft else {}
        return dict(self.env) | extra | {"MP_NPROC": str(self.processes)}


def _word(value: bool) -> str:
    return str(value).lower()


PLAIN = Case(name="bf16")
FP8 = Case(name="fp8", pr="fp8")
PROFILED = {"BENCH_PROFILE": "6"}
NATIVE_CE = {"BENCH_NATIVE_CROSS_ENTROPY": "1"}
ROPE = "--fused-single-qkv-rope"
FUSER = "--use-transformer-engine-op-fuser"

SWITCHES = [
    replace(PLAIN, name="plain"),
    replace(PLAIN, name="ac-sel", ac="sel", reference="plain"),
    replace(PLAIN, name="ac-full", ac="full", reference="plain"),
    replace(PLAIN, name="ac-offload", ac="offload", reference="plain"),
    replace(PLAIN, name="fl-false", fl=False, reference="plain"),
    replace(PLAIN, name="do-false", do=False, reference="plain"),
    replace(PLAIN, name="optimizer-offload", offload="static", reference="plain"),
    replace(PLAIN, name="moments-bf16", env={"MP_MOMENTS": "bf16"}, reference="plain"),
    replace(PLAIN, name="fp16", pr="fp16", reference="plain"),
    replace(PLAIN, name="tensorwise", pr="fp8", reference="plain"),
    replace(PLAIN, name="delayed", pr="fp8", env={"MP_FP8_RECIPE": "delayed"}, reference="plain"),
    replace(PLAIN, name="blockwise", pr="fp8", env={"MP_FP8_RECIPE": "blockwise"}, reference="plain"),
    replace(PLAIN, name="rope", megatron=ROPE, reference="plain"),
    replace(PLAIN, name="tensorwise-rope", pr="fp8", megatron=ROPE, reference="tensorwise"),
]
"""One GPU, 4 layers; deterministic, so that what computes the same has the same bits."""

NO_OVERLAP = {"MP_TP_OVERLAP": "none"}
CTAS = {"NCCL_MIN_CTAS": "32"}
SIMPLE = {"NCCL_PROTO": "Simple"}
NO_MARGIN = {"NVTE_FWD_LAYERNORM_SM_MARGIN": "0", "NVTE_BWD_LAYERNORM_SM_MARGIN": "0"}
NO_BULK = "--no-tp-comm-bulk-wgrad --no-tp-comm-bulk-dgrad"
TP2 = replace(PLAIN, name="tp2", size="8B-L8", tp=2, sp=True, processes=2, seconds=45)


def _overlap(method: str, megatron: str = "") -> dict[str, Any]:
    """MP_TP_OVERLAP; a rank that waits in vain gives up after 20 s."""
    return {"env": {"MP_TP_OVERLAP": method, "UB_TIMEOUT": "20"}, "megatron": megatron}


OVERLAPS: dict[str, dict[str, Any]] = {
    "none": {"env": NO_OVERLAP},
    "ring": _overlap("ring"),
    "pipeline": _overlap("pipeline"),
    "ring-all": _overlap("ring-all"),
    "ring-nobulk": _overlap("ring", NO_BULK),
    "ctas": {"env": NO_OVERLAP | CTAS},
    "margin": {"env": NO_OVERLAP | NO_MARGIN},
}
"""Ways to do the communication of tensor parallelism, by name."""
TP2_PP2 = replace(PLAIN, name="8B-tp2-pp2", size="8B", tp=2, pp=2, sp=True, batch=32, steps=6, processes=4, seconds=90)


ONE_CHUNK = {"MP_VP_CHUNKS": "1"}
"""Without it the plan takes two where they pay."""


def _whole(case: Case) -> Case:
    """Each stage in one chunk, under the name of the time when that was the default."""
    return replace(case, env={**case.env, **ONE_CHUNK})


def _chunked(case: Case) -> Case:
    """The same, each stage in two chunks."""
    return replace(case, name=f"{case.name}-vp", env={**case.env, "MP_VP_CHUNKS": "2"})


CURVE = replace(PLAIN, name="curve", start="given", steps=20, env=DETERMINISTIC)
PACKED = replace(CURVE, sft="raw", env={})
"""Not deterministic: cuDNN then wants 256 GiB for the backward pass of THD attention at 8192. Under CP rows hold other
samples, so the losses are not those of one GPU; tests/gpu/test_sft.py compares with the processor."""
CURVES = [
    replace(CURVE, name="curve-plain"),
    replace(CURVE, name="curve-dp2-do-false", do=False, processes=2),
    replace(CURVE, name="curve-dp2", processes=2),
    replace(CURVE, name="curve-tp2-sp", tp=2, sp=True, processes=2),
    replace(CURVE, name="curve-tp2", tp=2, processes=2),
    replace(CURVE, name="curve-tp2-ring", tp=2, sp=True, processes=2, env=DETERMINISTIC | {"MP_TP_OVERLAP": "ring"}),
    replace(CURVE, name="curve-cp2", cp=2, processes=2),
    _whole(replace(CURVE, name="curve-pp2", pp=2, processes=2)),
    replace(CURVE, name="curve-pp2-even", pp=2, processes=2, env=DETERMINISTIC | {"MP_PP_BALANCE": "false"}),
    replace(CURVE, name="curve-pp2-vp2", pp=2, processes=2, env=DETERMINISTIC | {"MP_VP_CHUNKS": "2"}),
    replace(CURVE, name="curve-pp2-offload", pp=2, ac="offload", processes=2),
    replace(CURVE, name="curve-cp4", cp=4, processes=4),
    replace(CURVE, name="curve-tp4-sp", tp=4, sp=True, processes=4),
    replace(CURVE, name="curve-tp2-pp2-sp", tp=2, pp=2, sp=True, processes=4),
    replace(CURVE, name="curve-tp2-cp2-sp", tp=2, cp=2, sp=True, processes=4),
    replace(PACKED, name="packed-plain"),
    replace(PACKED, name="packed-cp2", cp=2, processes=2),
    replace(PACKED, name="packed-tp2-sp", tp=2, sp=True, processes=2),
]
"""Layouts from one folder of weights, 4 layers: the same losses up to the order of bf16 sums."""

GRAPHS = [
    replace(
        case,
        name=f"{case.name}-{graphs}",
        steps=12,
        env=DETERMINISTIC | {"MP_CUDA_GRAPHS": graphs},
        reference=f"{case.name}-none",
    )
    for case in (PLAIN, FP8)
    for graphs in ("none", "layers")
]
"""CUDA graphs of each layer on one GPU."""

LORA = replace(PLAIN, seq=4096, micro=2, batch=32, start="given", sft="raw", steps=10)
RANK = {"MP_LORA_RANK": "16", "MP_LORA_ALPHA": "32"}
LORA_8B = replace(LORA, name="", size="8B", start="random", env=RANK, steps=6, seconds=180)
SFT_8B = replace(PLAIN, name="", size="8B", seq=4096, micro=2, batch=16, steps=6, sft="raw", seconds=150)

ALL_LOGITS = {"MP_SFT_LOGITS": "all"}
SFT = replace(PLAIN, seq=4096, micro=2, batch=16, steps=10, sft="raw", seconds=60)
TOGETHER, APART = "--qkv-rope together", "--qkv-rope apart"

DELAYED = {"MP_FP8_RECIPE": "delayed"}

PASSES = replace(PLAIN, name="passes-bf16", megatron="--fewer-passes", steps=12, seconds=60)
PASSES_FP8 = replace(PASSES, name="passes-fp8", pr="fp8")
EXTRA = replace(FP8, name="extra-none", batch=4, start="random", steps=50, seconds=90)


def _passes(case: Case, *names: str) -> Case:
    """The same with these passes over memory left out."""
    name = f"{case.name}-{'-'.join(names)}"
    return replace(case, name=name, megatron=f"--fewer-passes {' '.join(names)}", reference=case.name)


def _extra(*names: str) -> Case:
    """EXTRA with more of it in fewer bits."""
    return replace(EXTRA, name=f"extra-{'-'.join(names)}", env={"MP_FP8_EXTRA": ",".join(names)}, reference=EXTRA.name)


SUITES: dict[str, list[Case]] = {
    "logits": [  # 4 layers: a quarter of the LM head's share is 8B's; predicted from it
        replace(SFT, name="sft-L4-all", env=ALL_LOGITS),
        replace(SFT, name="sft-L4-trained", reference="sft-L4-all"),
        replace(SFT, name="sft-L4-fp8-all", pr="fp8", env=ALL_LOGITS),
        replace(SFT, name="sft-L4-fp8-trained", pr="fp8", reference="sft-L4-fp8-all"),
    ],
    "logits-full": [
        replace(SFT, name="8B-sft", size="8B", steps=6, seconds=150),
        replace(SFT, name="8B-sft-all", size="8B", steps=6, env=ALL_LOGITS, seconds=150),
        replace(SFT, name="8B-sft-fp8", size="8B", pr="fp8", steps=6, seconds=150),
        replace(SFT, name="8B-sft-fp8-all", size="8B", pr="fp8", steps=6, env=ALL_LOGITS, seconds=150),
    ],
    "rope": [  # split of q, k, v and RoPE: Transformer Engine's kernels, its single one, ours
        replace(PLAIN, name="rope-apart", megatron=APART, steps=12, seconds=60),
        replace(PLAIN, name="rope-te-single", megatron=ROPE, reference="rope-apart", steps=12, seconds=60),
        replace(PLAIN, name="rope-together", megatron=TOGETHER, reference="rope-apart", steps=12, seconds=60),
        replace(FP8, name="rope-fp8-apart", megatron=APART, steps=12, seconds=60),
        replace(FP8, name="rope-fp8-together", megatron=TOGETHER, reference="rope-fp8-apart", steps=12, seconds=60),
        replace(SFT, name="rope-sft-apart", megatron=APART),
        replace(SFT, name="rope-sft-together", megatron=TOGETHER, reference="rope-sft-apart"),
        replace(FP8, name="fp8-op-fuser", megatron=FUSER, reference="rope-fp8-apart", steps=12, seconds=60),
    ],
    "lora": [  # --start: a Hugging Face folder of 8B-L4; beside each the full finetuning that it is a ratio to
        replace(LORA, name="full-4096-bf16"),
        replace(LORA, name="lora-4096-bf16", env=RANK),
        replace(LORA, name="full-4096-fp8", pr="fp8"),
        replace(LORA, name="lora-4096-fp8", pr="fp8", env=RANK),
        replace(LORA, name="lora-4096-fp8-do-false", pr="fp8", do=False, env=RANK),
    ],
    "lora-full": [  # all 32 layers on one GPU of 80 GB; --scratch in /dev/shm: the base has 16 GB
        replace(LORA_8B, name="lora-8B-bf16"),
        replace(LORA_8B, name="lora-8B-fp8", pr="fp8"),
        replace(LORA_8B, name="lora-8B-bf16-micro1", micro=1),
        replace(LORA_8B, name="lora-8B-fp8-micro3", pr="fp8", micro=3, batch=36),
        replace(LORA_8B, name="lora-8B-bf16-24GB", micro=1, batch=8, ac="full"),
    ],
    "lora-70B": [  # 70B's width; the peak is that of the plan
        replace(LORA_8B, name="lora-70B-L8-bf16", size="70B-L8", batch=16),
        replace(LORA_8B, name="lora-70B-L8-fp8", size="70B-L8", batch=16, pr="fp8"),
    ],
    "lora-two": [
        replace(LORA, name="lora-4096-tp2", tp=2, sp=True, processes=2, env=RANK),
        replace(LORA, name="lora-4096-pp2", pp=2, processes=2, env=RANK),
        replace(LORA, name="lora-4096-cp2", cp=2, processes=2, env=RANK),
    ],
    "smoke": [  # the script itself, also without a GPU
        Case(name="smoke", size="tiny", seq=128, batch=4, steps=5),
        Case(name="smoke-fails", size="tiny", seq=128, batch=4, steps=5, megatron="--num-layers-at-end-in-bf16 x"),
        Case(name="smoke-two", size="tiny", seq=128, batch=4, steps=5, processes=2),
        _chunked(Case(name="smoke", size="tiny-L8", seq=128, batch=4, steps=5, pp=2, processes=2)),
    ],
    "kernels": [
        replace(PLAIN, name="bf16-profile", env=PROFILED),
        replace(FP8, name="fp8-profile", env=PROFILED),
        replace(PLAIN, name="bf16-native-ce", env=NATIVE_CE),
        replace(PLAIN, name="bf16-sums-fp32", env={"MP_GRAD_REDUCE": "fp32"}),
        PLAIN,
        FP8,
        replace(FP8, name="fp8-fuser", env=PROFILED, megatron=FUSER),
        replace(PLAIN, name="bf16-flash", env={"MP_ATTENTION_BACKEND": "flash"} | PROFILED, seconds=180),
        replace(FP8, name="fp8-delayed", env={"MP_FP8_RECIPE": "delayed"} | PROFILED),
        replace(PLAIN, name="bf16-rope", megatron=ROPE, env=PROFILED),
        replace(FP8, name="fp8-blockwise", env={"MP_FP8_RECIPE": "blockwise"}),
        replace(FP8, name="fp8-micro2", micro=2),
        replace(PLAIN, name="bf16-micro2", micro=2),
    ],
    "one": [
        replace(PLAIN, name="8B-bf16", size="8B", batch=16, steps=6, seconds=200, env=PROFILED),
        replace(FP8, name="8B-fp8", size="8B", batch=16, steps=6, seconds=200, env=PROFILED),
        replace(FP8, name="8B-fp8-extra", size="8B", batch=16, steps=6, seconds=200, env={"MP_FP8_EXTRA": "sums,head"}),
    ],
    "two": [
        replace(PLAIN, name="8B-bf16-dp2", size="8B", batch=32, steps=5, processes=2, seconds=200),
        replace(FP8, name="8B-fp8-dp2", size="8B", batch=32, steps=5, processes=2, seconds=200),
        replace(PLAIN, name="8B-tp2-sp", size="8B", tp=2, sp=True, batch=8, steps=6, processes=2),
        _whole(replace(PLAIN, name="8B-pp2", size="8B", pp=2, batch=16, steps=5, processes=2)),
        replace(PLAIN, name="8B-cp2", size="8B", cp=2, batch=8, steps=6, processes=2),
        replace(PLAIN, name="8B-pp2-vp2", size="8B", pp=2, batch=16, steps=5, processes=2, env={"MP_VP_CHUNKS": "2"}),
        replace(PLAIN, name="L8-pp2-offload", size="8B-L8", pp=2, ac="offload", processes=2),
        replace(PLAIN, name="L4-dp2-do-false", do=False, processes=2),
    ],
    "four": [
        replace(PLAIN, name="8B-tp2-pp2-sp", size="8B", tp=2, pp=2, sp=True, batch=32, steps=4, processes=4),
        replace(PLAIN, name="8B-bf16-dp4", size="8B", batch=64, steps=5, processes=4),
        replace(FP8, name="8B-fp8-dp4", size="8B", batch=64, steps=6, processes=4),
    ],
    "curves": CURVES,
    "graphs": GRAPHS,
    "overlap": [replace(TP2, name=f"tp2-{name}", **how) for name, how in OVERLAPS.items()],
    "overlap-elsewhere": [
        replace(elsewhere, name=f"tp2-{where}-{how}", **OVERLAPS[how], reference=f"tp2-{where}-none")
        for where, elsewhere in (("seq2048", replace(TP2, seq=2048, batch=32)), ("ac-full", replace(TP2, ac="full")))
        for how in ("none", "ring-all")
    ],
    "overlap-profiles": [
        replace(TP2, name=f"tp2-{name}-profile", **OVERLAPS[name] | {"env": OVERLAPS[name].get("env", {}) | PROFILED})
        for name in ("none", "ring")
    ],
    "overlap-four": [
        changed(replace(TP2_PP2, name=f"8B-tp2-pp2-{name}", **how))
        for name, how in OVERLAPS.items()
        for changed in (_whole, _chunked)
    ],
    "sft-logits": [  # 8B in full, on an H200: logits at trained positions only, and at all
        replace(SFT_8B, name="sft-bf16"),
        replace(SFT_8B, name="sft-bf16-all", env={"MP_SFT_LOGITS": "all"}),
        replace(SFT_8B, name="sft-fp8", pr="fp8"),
        replace(SFT_8B, name="sft-fp8-all", pr="fp8", env={"MP_SFT_LOGITS": "all"}),
    ],
    "numerics": [  # opt-ins that change numerics, 50 steps from a folder (--start) beside the default
        replace(PLAIN, name="fp8-50", pr="fp8", start="given", steps=50),
        replace(PLAIN, name="bf16-50", start="given", steps=50, reference="fp8-50"),
        replace(PLAIN, name="fp8-50-delayed", pr="fp8", start="given", steps=50, env=DELAYED, reference="fp8-50"),
    ],
    "passes": [  # passes over memory that can be left out: losses differ by rounding
        PASSES,
        _passes(PASSES, "residual"),
        PASSES_FP8,
        _passes(PASSES_FP8, "residual"),
        _passes(PASSES_FP8, "projection"),
        _passes(PASSES_FP8, "swiglu"),
        replace(PASSES_FP8, name="passes-fp8-default", megatron="", reference=PASSES_FP8.name),
    ],
    "fp8-extra": [  # opt-ins that change numerics; bf16's row is the measure of their loss gaps
        EXTRA,
        replace(EXTRA, name="extra-bf16", pr="bf16", reference=EXTRA.name),
        _extra("sums"),
        _extra("head"),
        _extra("sums", "head"),
    ],
    "sft": [  # the last is the yardstick of the others
        replace(PLAIN, name="sft-raw-4096", size="8B", seq=4096, micro=2, batch=16, steps=6, sft="raw"),
        replace(PLAIN, name="sft-idxmap-4096", size="8B", seq=4096, micro=2, batch=16, steps=6, sft="idxmap"),
        replace(FP8, name="sft-fp8-4096", size="8B", seq=4096, micro=2, batch=16, steps=6, sft="raw"),
        replace(PLAIN, name="pretrain-4096", size="8B", seq=4096, micro=2, batch=16, steps=6),
    ],
    "switches": [replace(case, env={**DETERMINISTIC, **case.env}) for case in SWITCHES],
    "save": [  # saved after iteration 5, when the steps are settled, and at the end
        replace(PLAIN, name="save-L8", size="8B-L8", save_interval=5),
        replace(PLAIN, name="save-L8-waiting", size="8B-L8", save_interval=5, env={"MP_BACKGROUND_SAVE": "false"}),
        replace(PLAIN, name="8B-save", size="8B", batch=2, save_interval=5),
        replace(PLAIN, name="save-L16-dp2", size="8B-L16", save_interval=5, processes=2),
        replace(PLAIN, name="save-L16-dp4", size="8B-L16", save_interval=5, processes=4),
        replace(PLAIN, name="save-L16-tp2-pp2", size="8B-L16", tp=2, pp=2, sp=True, save_interval=5, processes=4),
    ],
    "planner-one": [
        replace(PLAIN, name="one-L8-bf16", size="8B-L8", batch=16),
        replace(FP8, name="one-L8-fp8", size="8B-L8", batch=16),
        replace(PLAIN, name="one-L8-4096", size="8B-L8", seq=4096, batch=32, micro=2),
        replace(PLAIN, name="one-70B-L2-bf16", size="70B-L2"),
        replace(FP8, name="one-70B-L2-fp8", size="70B-L2"),
    ],
    "planner-two": [
        replace(PLAIN, name="two-L8-dp2", size="8B-L8", batch=32, processes=2),
        replace(FP8, name="two-L8-dp2-fp8", size="8B-L8", batch=32, processes=2),
        replace(PLAIN, name="two-L8-tp2", size="8B-L8", tp=2, sp=True, batch=16, processes=2),
        replace(PLAIN, name="two-L8-cp2", size="8B-L8", cp=2, batch=16, processes=2),
        replace(PLAIN, name="two-L8-pp2", size="8B-L8", pp=2, batch=16, processes=2),
        replace(PLAIN, name="two-70B-L2-tp2", size="70B-L2", tp=2, sp=True, batch=16, processes=2),
    ],
    "rope-profile": [  # where fp8 keeps what the kernel saves
        replace(FP8, name="rope-fp8-apart-profile", megatron=APART, env=PROFILED, seconds=60),
        replace(FP8, name="rope-fp8-together-profile", megatron=TOGETHER, env=PROFILED, seconds=60),
    ],
    "rank-two": [  # the same 16 sequences in every layout: does the planner rank them as they come out?
        replace(PLAIN, name="rank-dp2", size="8B-L8", batch=16, processes=2),
        replace(PLAIN, name="rank-tp2", size="8B-L8", tp=2, sp=True, batch=16, processes=2),
        replace(PLAIN, name="rank-cp2", size="8B-L8", cp=2, batch=16, processes=2),
        _whole(replace(PLAIN, name="rank-pp2", size="8B-L8", pp=2, batch=16, processes=2)),
        replace(PLAIN, name="rank-pp2-vp2", size="8B-L8", pp=2, batch=16, processes=2, env={"MP_VP_CHUNKS": "2"}),
        replace(FP8, name="rank-dp2-fp8", size="8B-L8", batch=16, processes=2),
        replace(FP8, name="rank-tp2-fp8", size="8B-L8", tp=2, sp=True, batch=16, processes=2),
        replace(PLAIN, name="rank-70B-dp2", size="70B-L2", batch=16, processes=2),
        replace(PLAIN, name="rank-70B-tp2", size="70B-L2", tp=2, sp=True, batch=16, processes=2),
        replace(PLAIN, name="rank-70B-cp2", size="70B-L2", cp=2, batch=16, processes=2),
        replace(PLAIN, name="rank-70B-pp2", size="70B-L2", pp=2, batch=16, processes=2),
    ],
    "tp-links": [  # NCCL's protocol for two ranks; fp8 buffers of overlapped communication
        replace(TP2, name="tp2-links-none", batch=16, env=NO_OVERLAP),
        replace(TP2, name="tp2-links-none-simple", batch=16, env=NO_OVERLAP | SIMPLE, reference="tp2-links-none"),
        replace(
            TP2, name="tp2-links-ring-all", batch=16, env={"MP_TP_OVERLAP": "ring-all"}, reference="tp2-links-none"
        ),
        replace(TP2, name="tp2-links-fp8-none", pr="fp8", batch=16, env=NO_OVERLAP),
        replace(
            TP2,
            name="tp2-links-fp8-simple",
            pr="fp8",
            batch=16,
            env=NO_OVERLAP | SIMPLE,
            reference="tp2-links-fp8-none",
        ),
        replace(
            TP2,
            name="tp2-links-fp8-ring-all",
            pr="fp8",
            batch=16,
            env={"MP_TP_OVERLAP": "ring-all", "UB_TIMEOUT": "20"},
            reference="tp2-links-fp8-none",
        ),
    ],
    "qwen": [
        replace(PLAIN, name="qwen3-L4", size="qwen3-8B-L4"),
        replace(FP8, name="qwen3-L4-fp8", size="qwen3-8B-L4"),
        replace(PLAIN, name="qwen2_5-L4", size="qwen2_5-7B-L4"),
        replace(FP8, name="qwen2_5-L4-fp8", size="qwen2_5-7B-L4"),
    ],
    "qwen-full": [
        replace(PLAIN, name="qwen3-8B-bf16", size="qwen3-8B", batch=16, steps=6, seconds=200),
        replace(  # with fp32 moments it does not fit on one H200: 146.7 GB before cuDNN's own
            FP8, name="qwen3-8B-fp8", size="qwen3-8B", batch=16, steps=6, seconds=200, env={"MP_MOMENTS": "bf16"}
        ),
    ],
    "qwen-two": [
        replace(PLAIN, name="qwen3-L4-tp2", size="qwen3-8B-L4", tp=2, sp=True, processes=2),
        replace(FP8, name="qwen3-L4-tp2-fp8", size="qwen3-8B-L4", tp=2, sp=True, processes=2),
        replace(PLAIN, name="qwen2_5-L4-tp2", size="qwen2_5-7B-L4", tp=2, sp=True, processes=2),
    ],
    "fit": [
        replace(PLAIN, name="8B-optimizer-auto", size="8B", offload="auto", batch=4, steps=4),
    ],
}
