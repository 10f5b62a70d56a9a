"""How models are cut, against megatron-core's own functions, and what that takes in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from megatron_patch.launch.layout import (
    Layout,
    balanced_layers,
    deal_layers,
    divisors,
    split_layers,
    valid_pipeline_parallel,
    valid_tensor_parallel,
)
from megatron_patch.launch.memory import Adam, Load, Precision, estimate, in_flight, save_bytes, stage_parameters
from megatron_patch.models import model_of_size, sizes
from megatron_patch.models.megatron import tensor_parallel_problem
from megatron_patch.models.names import default_family

MODELS = default_family().sizes


def layout(
    *, tp: int = 1, pp: int = 1, cp: int = 1, dp: int = 1, chunks: int = 1, layers: int = 32, sp: bool = False
) -> Layout:
    split = split_layers(layers, pp, chunks)
    assert split is not None
    cut = {"stage_layers": split[0], "ends_count": split[1]}
    return Layout(
        nodes=1, processes=tp * pp * cp * dp, tp=tp, pp=pp, chunks=chunks, cp=cp, dp=dp, sequence_parallel=sp, **cut
    )


def test_ends_count_as_layers_only_where_layers_alone_do_not_divide() -> None:
    assert split_layers(32, 1, 1) == ((32,), False)
    assert split_layers(32, 4, 2) == ((8, 8, 8, 8), False)
    assert split_layers(126, 16, 1) == ((7, *(8,) * 14, 7), True)
    assert split_layers(126, 8, 1) == ((15, *(16,) * 6, 15), True)
    assert split_layers(30, 2, 2) == ((15, 15), True)
    assert split_layers(4, 6, 1) is None  # would leave the ends without a layer
    assert split_layers(32, 5, 1) is None


def test_balanced_layers() -> None:
    """The head of 8B takes as long as two of its layers; a single layer more or less must pay."""
    assert balanced_layers(MODELS["8B"], 128256, 8192, 2) == (17, 15)
    assert balanced_layers(MODELS["8B"], 128256, 8192, 4) == (9, 8, 8, 7)
    assert balanced_layers(MODELS["70B"], 128256, 8192, 4) == (20, 20, 20, 20)
    assert balanced_layers(MODELS["tiny"], 4096, 128, 2)[0] >= 2


@pytest.mark.parametrize("size", MODELS)
@pytest.mark.parametrize("pp", [2, 3, 4, 8])
def test_balanced_layers_add_up(size: str, pp: int) -> None:
    model = MODELS[size]
    if model.num_layers % pp:
        return
    stages = balanced_layers(model, 128256, 8192, pp)
    assert (len(stages), sum(stages)) == (pp, model.num_layers)
    assert min(stages) >= 1 and len(set(stages[1:-1])) <= 1


@pytest.mark.parametrize("size", MODELS)
@pytest.mark.parametrize("vp", [1, 2, 5])
def test_layers_add_up_at_every_valid_pp(size: str, vp: int) -> None:
    model = MODELS[size]
    for pp in valid_pipeline_parallel(model, vp):
        split = split_layers(model.num_layers, pp, vp)
        assert split is not None
        assert (len(split[0]), sum(split[0])) == (pp, model.num_layers)
        assert min(split[0]) >= 1


def test_chunks_of_uneven_stages() -> None:
    """Rank r computes chunks r, r + PP, ...: its layers, dealt over them."""
    assert deal_layers((17, 15), 2) == (9, 8, 8, 7)
    assert deal_layers((3, 2, 2), 2) == (2, 1, 1, 1, 1, 1)


def test_every_tp_and_pp_that_a_model_allows() -> None:
    assert valid_tensor_parallel(MODELS["8B"]) == [1, 2, 4, 8, 16, 32]
    assert valid_tensor_parallel(MODELS["3B"]) == [1, 2, 4, 8]
    assert valid_tensor_parallel(MODELS["tiny"]) == [1, 2, 4, 8]
    assert valid_pipeline_parallel(MODELS["tiny"], 1) == [1, 2, 3, 4]
    assert valid_pipeline_parallel(MODELS["tiny"], 2) == [2]
    assert 16 in valid_pipeline_parallel(MODELS["405B"], 1)
    assert divisors(12) == [1, 2, 3, 4, 6, 12]


def test_why_a_tensor_parallel_size_is_impossible() -> None:
    assert tensor_parallel_problem(MODELS["8B"], 16) is None  # more than KV heads, a multiple of them
    assert "32 attention heads" in str(tensor_parallel_problem(MODELS["8B"], 3))
    assert "8 KV heads" in str(tensor_parallel_problem(MODELS["3B"], 12))
    assert "FFN" in str(tensor_parallel_problem(replace(MODELS["8B"], ffn_hidden_size=14338), 4))


@pytest.mark.parametrize("size", ["1B", "8B", "405B", *(name for name in sizes() if name.endswith("tiny"))])
def test_parameters_add_up_over_ranks(size: str) -> None:
    """Every parameter is somewhere: biases are sharded over TP, norms are on every rank, tied tables on both ends."""
    model, rows = model_of_size(size), 128256
    whole = model.num_parameters(rows)
    for tp, pp in ((1, 1), (2, 1), (1, 2), (4, 2)):
        one = layout(tp=tp, pp=pp, layers=model.num_layers)
        total = sum(stage_parameters(model, rows, one, stage) for stage in range(pp)) * tp
        of_a_layer = 2 * model.hidden_size + (2 * model.head_dim if model.qk_norm else 0)
        norms = (tp - 1) * (model.num_layers * of_a_layer + model.hidden_size)
        tied = rows * model.hidden_size if model.tie_embeddings and pp > 1 else 0
        assert total == whole + norms + tied


def test_micro_batches_in_flight() -> None:
    assert [in_flight(layout(pp=4), stage, 8) for stage in range(4)] == [4, 3, 2, 1]
    assert in_flight(layout(pp=4), 0, 2) == 2
    assert in_flight(layout(), 0, 8) == 1
    # Narayanan et al. 2021, figure 4: 4 devices, 2 chunks: 11 chunk passes before the first backward.
    assert [in_flight(layout(pp=4, chunks=2), stage, 8) for stage in range(4)] == [5.5, 4.5, 3.5, 2.5]
    assert in_flight(layout(pp=4, chunks=2), 0, 4) == 4, "all of them"
    uneven = replace(layout(pp=2, chunks=2), stage_layers=(17, 15))  # 9 | 8 | 8 | 7
    assert in_flight(uneven, 0, 32) == (4 * 9 + 8) / 17, "9 layers enter where 8 have left"


def test_chunks_take_what_was_measured() -> None:
    """Four H200s, 2026-11-27, 8B at TP2 PP2 SP, 32 sequences: 58.67 GB, in two chunks 64.49."""
    whole = replace(layout(tp=2, pp=2, sp=True), stage_layers=(17, 15))
    load = replace(LOAD, layout=whole, micro_batches=32, precision=replace(BF16, adam=SMALL))
    plain, chunks = (estimate(replace(load, layout=replace(whole, chunks=count))).total / 1e9 for count in (1, 2))
    assert chunks - plain == pytest.approx(64.49 - 58.67, rel=0.05)


BF16 = Precision(weight=2, gradient=4, activation=2)
SMALL = Adam(bytes=6, compact=True, moments_bf16=True)
PEAKS = [
    # GB that torch's allocator held at most on one H200: layers of 8B's width at 8192 tokens, 8 sequences an iteration
    pytest.param(43.08, 4, 1, BF16, "none", id="bf16"),
    pytest.param(49.95, 4, 2, BF16, "none", id="micro batch 2"),
    pytest.param(40.05, 4, 1, replace(BF16, gradient=2), "none", id="sums in bf16"),
    pytest.param(42.34, 4, 1, replace(BF16, fp8=True), "none", id="fp8"),
    pytest.param(120.74, 32, 1, Precision(weight=2, gradient=2, activation=2, adam=SMALL), "none", id="8B bf16"),
    # since Adam reads gradients summed in bf16 where they lie
    pytest.param(38.63, 4, 1, replace(BF16, gradient=2, fp8=True), "none", id="fp8, sums in bf16"),
]


LOAD = Load(
    model=MODELS["8B"],
    vocab_rows=128256,
    layout=layout(),
    precision=BF16,
    micro_batch=1,
    seq_len=8192,
    micro_batches=8,
    distributed_optimizer=True,
)


def test_a_head_in_fp8_takes_what_was_measured() -> None:
    """41.68 GB on an H200, 38.63 without."""
    fp8 = replace(BF16, gradient=2, fp8=True)
    four = replace(LOAD, model=replace(MODELS["8B"], num_layers=4), layout=layout(layers=4), precision=fp8)
    more = estimate(replace(four, head_fp8=True)).total - estimate(four).total
    assert more / 1e9 == pytest.approx(41.68 - 38.63, rel=0.05)


@pytest.mark.parametrize(("measured", "layers", "micro_batch", "precision", "recompute"), PEAKS)
def test_estimate_is_near_measured_peaks(
    measured: float, layers: int, micro_batch: int, precision: Precision, recompute: str
) -> None:
    load = replace(
        LOAD,
        model=replace(MODELS["8B"], num_layers=layers),
        layout=layout(layers=layers),
        precision=precision,
        micro_batch=micro_batch,
        micro_batches=8 // micro_batch,
        recompute=recompute,
    )
    memory = estimate(load)
    assert memory.total / 1e9 == pytest.approx(measured, rel=0.02)
    assert memory.total == sum(memory.components().values())


IN_BF16 = replace(BF16, gradient=2)
IN_ONE_ORDER = [
    # GB of 4 such layers on H200s, deterministic: attention's gradients of all scores come on top (docs/performance.md)
    pytest.param(41.51, {"precision": BF16, "recompute": "full"}, {}, id="AC full"),
    pytest.param(43.46, {"precision": BF16, "recompute": "offload"}, {}, id="AC offload"),
    pytest.param(44.95, {"precision": BF16, "recompute": "sel"}, {}, id="AC sel"),
    pytest.param(40.76, {}, {}, id="one GPU"),
    pytest.param(29.22, {}, {"dp": 2}, id="DP2"),
    pytest.param(20.50, {}, {"tp": 2, "sp": True}, id="TP2"),
    pytest.param(24.67, {}, {"cp": 2}, id="CP2"),
    pytest.param(31.14, {}, {"pp": 2, "stages": (3, 1)}, id="PP2"),
    pytest.param(25.37, {}, {"pp": 2, "stages": (2, 2)}, id="PP2, even"),
    pytest.param(15.7, {}, {"tp": 2, "pp": 2, "sp": True, "stages": (3, 1)}, id="TP2 PP2"),
]


def on_ranks(cut: dict[str, Any], layers: int) -> Layout:
    """A layout with the stages that balancing gives."""
    whole = layout(layers=layers, **{name: value for name, value in cut.items() if name != "stages"})
    return replace(whole, stage_layers=cut["stages"]) if "stages" in cut else whole


@pytest.mark.parametrize(("measured", "changes", "cut"), IN_ONE_ORDER)
def test_deterministic_attention_wants_the_gradients_of_all_scores(
    measured: float, changes: dict[str, Any], cut: dict[str, Any]
) -> None:
    model = replace(MODELS["8B"], num_layers=4)
    load = replace(LOAD, model=model, layout=on_ranks(cut, 4), precision=IN_BF16, deterministic=True)
    assert estimate(replace(load, **changes)).total / 1e9 == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize(
    ("measured", "layers", "cut", "precision"),
    [
        pytest.param(39.34, 8, {"pp": 2, "stages": (5, 3)}, IN_BF16, id="PP2"),
        pytest.param(108.62, 32, {"pp": 2, "stages": (17, 15)}, IN_BF16, id="PP2, 8B"),
        pytest.param(58.56, 32, {"tp": 2, "pp": 2, "sp": True, "stages": (17, 15)}, BF16, id="TP2 PP2, 8B"),
    ],
)
def test_the_first_stage_has_a_gradient_of_the_embedding_that_nobody_reads(
    measured: float, layers: int, cut: dict[str, Any], precision: Precision
) -> None:
    model = replace(MODELS["8B"], num_layers=layers)
    load = replace(LOAD, model=model, layout=on_ranks(cut, layers), precision=precision)
    assert estimate(load).total / 1e9 == pytest.approx(measured, rel=0.012)


def test_what_saves_memory_does() -> None:
    base = replace(LOAD, layout=layout(dp=4))
    plain = estimate(base)

    def changed(**changes: Any) -> int:
        return estimate(replace(base, **changes)).total

    assert changed(distributed_optimizer=False) - plain.total == plain.optimizer * 3
    assert changed(offload_fraction=1.0) == plain.total - plain.optimizer
    assert changed(recompute="full") < 0.8 * plain.total
    assert changed(recompute="full") < changed(recompute="full", recompute_layers=8) < plain.total
    assert changed(recompute="offload", recompute_layers=16) == plain.total - plain.activations // 2
    pipeline = changed(layout=layout(pp=2, dp=2))
    assert 0.85 * pipeline < changed(layout=layout(pp=2, dp=2), recompute="modules") < pipeline
    assert changed(layout=layout(tp=4, sp=True)) < changed(layout=layout(tp=4)) < plain.total
    assert changed(layout=layout(cp=4, dp=1)) < plain.total
    assert changed(micro_batch=2) - plain.total == plain.activations + plain.logits
    fp32 = estimate(replace(base, precision=Precision(weight=4, gradient=4, activation=4)))
    assert (fp32.weights, fp32.activations) == (2 * plain.weights, 2 * plain.activations)


def test_ram_of_a_save() -> None:
    """Bytes a parameter: one rank moves its state; several gather the whole stage, and each copies what it writes."""
    model, sizes = MODELS["8B"], {}
    for one in (layout(), layout(dp=4), layout(tp=2, pp=2)):
        memory = estimate(replace(LOAD, layout=one))
        sizes[one.tp, one.dp] = save_bytes(memory, BF16, one) / model.num_parameters(128256)
    assert sizes[1, 1] == pytest.approx(14)
    assert sizes[1, 4] == pytest.approx(14 / 4)
    assert sizes[2, 1] == pytest.approx(14 / 4, rel=0.1)


def test_ranks_are_numbered_as_megatron_numbers_them() -> None:
    lines = layout(tp=2, cp=2, dp=2, pp=2, layers=4).describe_groups()
    assert list(map(str, lines)) == [
        "TP 2: ranks 0, 1 share each layer, and so on",
        "CP 2: ranks 0, 2 share each sequence, and so on",
        "DP 2: ranks 0, 4 see different sequences, and so on",
        "PP 2: stages start at ranks 0, 8; layers 2, 2",
    ]
