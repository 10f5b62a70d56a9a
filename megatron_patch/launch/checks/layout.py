"""TP, PP, CP, chunks and sequence parallelism against the model."""

from __future__ import annotations

from megatron_patch.common.messages import Name
from megatron_patch.launch import cuda_graphs, megatron_flags, tp_overlap
from megatron_patch.launch.layout import (
    chunks_of,
    split_layers,
    stage_words,
    valid_chunk_layers,
    valid_chunks,
    valid_pipeline_parallel,
    valid_tensor_parallel,
)
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.resolve import Findings, finds
from megatron_patch.launch.schedule import Batches
from megatron_patch.models import ModelConfig
from megatron_patch.models.megatron import tensor_parallel_problem

NO_OVERLAP = "--no-overlap-p2p-communication"


def check_tensor_parallel(*, tp: int, model: ModelConfig) -> Findings:
    """Heads, FFN and vocabulary have to divide by TP."""
    why = tensor_parallel_problem(model, tp)
    if why:
        yield Problem(why.code, "TP", "MODEL_SIZE", **why.values, fits=valid_tensor_parallel(model))


@finds("layers_divide")
def check_pipeline_parallel(*, pp: int, model: ModelConfig) -> Findings:
    """The layers have to divide by PP."""
    if split_layers(model.num_layers, pp, 1) is None:
        values = {"layers": model.num_layers, "padded": model.num_layers + 2, "pp": pp}
        yield Problem("pp-layers", "PP", "MODEL_SIZE", **values, fits=valid_pipeline_parallel(model))
    else:
        yield "layers_divide", True


@finds("chunks")
def check_chunks(
    *,
    pp: int,
    model: ModelConfig,
    layers_divide: bool,
    mp_vp: int | None,
    mp_vp_chunks: int | None,
    vp_counts_chunks: bool,
) -> Findings:
    """Virtual pipeline stages: MP_VP says how many layers one has, MP_VP_CHUNKS how many of them a rank has."""
    chunks = 1 if mp_vp_chunks is None else mp_vp_chunks
    name = _typed(mp_vp, vp_counts_chunks)
    if mp_vp is not None:
        found = chunks_of(model.num_layers, pp, mp_vp)
        if found is None:
            values = {"stage": stage_words(model.num_layers, pp), "vp": mp_vp}
            fits = valid_chunk_layers(model.num_layers, pp)
            yield Problem("vp-layers", "MP_VP", "PP", "MODEL_SIZE", **values, fits=fits)
            return
        if mp_vp_chunks not in (None, found):
            values = {"vp": mp_vp, "made": found, "said": mp_vp_chunks}
            yield Problem("vp-and-chunks", "MP_VP", "MP_VP_CHUNKS", **values)
            return
        chunks = found
    if chunks > 1 and pp == 1:
        yield Problem("vp-without-pipeline", name, "PP", name=Name(name))
    elif split_layers(model.num_layers, pp, chunks) is None:
        counts = valid_chunks(model.num_layers, pp)
        values = {"stage": stage_words(model.num_layers, pp), "chunks": chunks, "name": Name(name)}
        yield Problem("vp-chunks", name, "PP", "MODEL_SIZE", **values, fits=counts)
    else:
        yield "chunks", chunks


def _typed(mp_vp: int | None, vp_counts_chunks: bool) -> str:
    """The variable that says how many chunks there are: in the folder of an older run, MP_VP says it too."""
    return "MP_VP_CHUNKS" if mp_vp is None and not vp_counts_chunks else "MP_VP"


def check_interleaving(
    *,
    micro_batches: int,
    batches: Batches,
    batch_size: int,
    dp: int,
    pp: int,
    chunks: int,
    mp_vp: int | None,
    vp_counts_chunks: bool,
) -> Findings:
    """The interleaved schedule wants whole groups of PP micro batches. Source: schedules.py, megatron-core 0.19.2."""
    counts = [stage.batch // (batch_size * dp) for stage in batches.stages]
    wrong = [count for count in counts if count % pp]
    if chunks > 1 and wrong:
        name = _typed(mp_vp, vp_counts_chunks)
        yield Problem("vp-micro-batches", name, "GLOBAL_BATCH_SIZE", "PP", micro_batches=wrong[0])


def check_chunks_send(
    *, megatron_args: tuple[str, ...], pp: int, chunks: int, mp_vp: int | None, vp_counts_chunks: bool
) -> Findings:
    """Two stages in chunks send both ways at once. Source: `validate_args` of megatron-core 0.19.2."""
    if chunks > 1 and pp == 2 and NO_OVERLAP in megatron_args:
        yield Problem("vp-no-overlap", _typed(mp_vp, vp_counts_chunks), "MP_MEGATRON_ARGS", "PP", flag=NO_OVERLAP)


def check_sequence(*, seq_len: int, cp: int) -> Findings:
    """Each context-parallel rank holds two chunks of a sequence, one from each end."""
    if cp > 1 and seq_len % (2 * cp):
        yield Problem("sequence-cp", "SEQ_LEN", "CP", multiple=2 * cp)


def check_sequence_parallel(*, seq_len: int, cp: int, tp: int, sp: bool) -> Findings:
    """Sequence parallelism cuts what context parallelism leaves once more."""
    if sp and tp > 1 and seq_len % cp == 0 and (seq_len // cp) % tp:
        values = {"part": seq_len // cp, "tp": tp, "multiple": cp * tp}
        yield Problem("sequence-sp", "SEQ_LEN", "CP", "TP", "SP", **values)


def check_tp_overlap(
    *, mp_tp_overlap: str, device: str, tp: int, sp: bool, pr: str, mp_fp8_recipe: str, processes: int
) -> Findings:
    """Asked for where it is not possible; MP_TP_OVERLAP=auto does without."""
    found = tp_overlap.obstacle(device=device, tp=tp, sp=sp, pr=pr, fp8_recipe=mp_fp8_recipe, processes=processes)
    if mp_tp_overlap in tp_overlap.METHODS and found is not None:
        yield Problem(found.code, "MP_TP_OVERLAP", *found.names, **found.values)


def check_cuda_graphs(
    *,
    mp_cuda_graphs: str,
    device: str,
    pp: int,
    pr: str,
    mp_fp8_recipe: str,
    ac: str,
    sft: bool,
    mp_lora_rank: int | None,
    mp_freeze: str | None,
) -> Findings:
    """Asked for where it is not possible; MP_CUDA_GRAPHS=auto does without."""
    if mp_cuda_graphs != "layers":
        return
    adapters, frozen = mp_lora_rank is not None, mp_freeze is not None
    found = cuda_graphs.obstacle(
        device=device, pp=pp, pr=pr, fp8_recipe=mp_fp8_recipe, ac=ac, sft=sft, adapters=adapters, frozen=frozen
    )
    if found is not None:
        yield Problem(found.code, "MP_CUDA_GRAPHS", *found.names)


def check_flags_of_graphs(*, mp_cuda_graphs: str, megatron_args: tuple[str, ...], batch_size: int) -> Findings:
    """Flags that a graph would not follow; beside them MP_CUDA_GRAPHS=auto does without."""
    for flag, values in megatron_flags.grouped(megatron_args) if mp_cuda_graphs == "layers" else ():
        if flag in cuda_graphs.OWN_FLAGS:
            yield Problem("graphs-twice", "MP_CUDA_GRAPHS", "MP_MEGATRON_ARGS", flag=flag)
        elif flag in cuda_graphs.NOT_REPLAYED:
            yield Problem("graphs-flag", "MP_CUDA_GRAPHS", "MP_MEGATRON_ARGS", flag=flag)
        elif flag == cuda_graphs.EVAL_BATCH and values[-1:] != [str(batch_size)]:
            yield Problem("graphs-batch", "MP_CUDA_GRAPHS", "MP_MEGATRON_ARGS", "BATCH_SIZE", flag=flag)
