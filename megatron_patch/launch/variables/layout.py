"""Processes, pipeline chunks, recomputed activations, kernels, precision."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_patch.common.values import choice, several, switch, whole
from megatron_patch.launch.cuda_graphs import VALUES as GRAPHS
from megatron_patch.launch.tp_overlap import METHODS
from megatron_patch.launch.variables.row import row


@dataclass(frozen=True, kw_only=True)
class LayoutVariables:
    """Rows of the table of MP_* variables; None leaves the choice to the plan, which says what it took."""

    ac_layers: int = row(
        1,
        whole(1),
        "AC=full: layers of one recomputed group; AC=offload: layers moved to the CPU",
        "AC=full：每组重算的层数；AC=offload：移到 CPU 的层数",
        matters=("AC", "full", "offload"),
    )
    ac_method: str = row(
        "uniform",
        choice("uniform", "block"),
        "AC=full: uniform = every layer, in groups of MP_AC_LAYERS; block = MP_AC_LAYERS layers of each stage",
        "AC=full：uniform = 每一层，按 MP_AC_LAYERS 层一组；block = 每个流水线阶段的 MP_AC_LAYERS 层",
        matters=("AC", "full"),
    )
    allow_unfused_attention: bool = row(
        False,
        switch(),
        "GPUs: train on where attention falls back to S x S scores at 2048 tokens or more",
        "GPU：注意力退回到 S x S 分数矩阵（2048 个词元以上）时仍继续训练",
        matters=("DEVICE", "cuda"),
    )
    attention_backend: str | None = row(
        None,
        choice("auto", "flash", "fused", "unfused"),
        "attention kernel, before FL",
        "注意力内核，优先于 FL",
    )
    device: str = row(
        "auto", choice("auto", "cpu", "cuda"), "auto takes GPUs where there are any", "auto = 有 GPU 就用 GPU"
    )
    fp8_extra: str = row(
        "none",
        several("sums", "head", none="none"),
        "what fp8 also computes in fewer bits: sums = of the backward pass, not split over fp32 (1.5 % of a step, "
        "losses of 50 steps within 0.005); head = the LM head's matmuls (15 ms for 8192 tokens, within 0.025)",
        "fp8 还用更少的位数计算什么：sums = 反向传播的求和，不拆分到 fp32（一步的 1.5 %，50 步损失相差不超过 0.005）；"
        "head = LM head 的矩阵乘法（8192 个词元 15 ms，相差不超过 0.025）",
        matters=("PR", "fp8"),
    )
    fp8_recipe: str = row(
        "tensorwise",
        choice("tensorwise", "delayed", "blockwise"),
        "scaling under PR=fp8",
        "PR=fp8 时的缩放方式",
        matters=("PR", "fp8"),
    )
    cuda_graphs: str = row(
        "auto",
        choice(*GRAPHS),
        "GPUs, PP 1, pretraining in bf16 or tensorwise fp8 without AC: layers = the kernels of a layer are started by "
        "one call, recorded in the first step; auto = that on H100 and H200 where TP > 1 with SP, CP 1, the "
        "optimizer is on the GPU, an eighth more memory is there than planned, and no flag of MP_MEGATRON_ARGS changes "
        "layers",
        "GPU，PP 1、bf16 或 tensorwise fp8 的预训练、无 AC：layers = 一次调用启动一层的全部内核，在第一步录制；"
        "auto = H100 和 H200 上 TP > 1 且开启 SP、CP 1、优化器在 GPU 上、显存比计划多出八分之一，"
        "且 MP_MEGATRON_ARGS 中没有改变层的参数时使用",
    )
    memory_check: bool = row(
        True,
        switch(),
        "GPUs: a run that does not fit by its plan is not started; 0 tries it",
        "GPU：按计划放不下的运行不会启动；0 = 仍然尝试",
        matters=("DEVICE", "cuda"),
    )
    nproc: int | None = row(
        None,
        whole(1, 4096),
        "processes on this machine; else one per GPU, on the CPU TP x PP x CP",
        "本机的进程数；默认每个 GPU 一个，CPU 上为 TP x PP x CP",
    )
    pp_balance: bool = row(
        True,
        switch(),
        "GPUs, PP > 1: fewer layers on the last stage, whose LM head takes time too",
        "GPU，PP > 1：最后一个阶段少放几层，因为 LM head 也要时间",
        matters=("DEVICE", "cuda"),
    )
    tp_overlap: str = row(
        "auto",
        choice("auto", "none", *METHODS),
        "GPUs, TP > 1 with SP in bf16 or fp8: tensor-parallel communication overlaps the matmuls that need it, through "
        "Transformer Engine's userbuffers; pipeline = its own choice of methods, ring = copies also after the forward "
        "matmuls, ring-all = after all; auto = that, from 4096 tokens a micro batch, without AC=offload",
        "GPU，TP > 1 且 SP、bf16 或 fp8：张量并行通信与所需的矩阵乘法重叠，经由 Transformer Engine 的 userbuffers；"
        "pipeline = 由其自行选择方法，ring = 前向矩阵乘法之后也用复制，ring-all = 全部之后；"
        "auto = ring-all，微批次达到 4096 个词元且没有 AC=offload 时",
    )
    vp: int | None = row(
        None,
        whole(1),
        "virtual pipeline: layers of one chunk, as --num-layers-per-virtual-pipeline-stage; else MP_VP_CHUNKS",
        "虚拟流水线：每块的层数，即 --num-layers-per-virtual-pipeline-stage；默认看 MP_VP_CHUNKS",
    )
    vp_chunks: int | None = row(
        None,
        whole(1),
        "virtual pipeline: chunks of each pipeline rank, in the place of MP_VP; else one, on GPUs two where a new run "
        "is predicted to be at least 1 % faster in them and they fit, and a run that goes on keeps its own",
        "虚拟流水线：每个流水线 rank 的块数，可代替 MP_VP；默认一块，GPU 上预计分两块能让新运行"
        "快至少 1 % 且放得下时两块，继续的运行保持原来的块数",
    )
