"""One of four processes: Megatron's GPTModel at many layouts, from one converted checkpoint and straight from HF.

usage: load_worker.py FOLDER..., in each of four ranks

Each folder holds `hf` and `megatron`. Every parameter of every rank is compared, bit for bit, with the slice cut by
hand from the Hugging Face tensors. Then each layout saves, through Megatron, into `saved/<layout>`, for the way back.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from megatron_patch.backend import enable

LAYOUTS = {
    "dp4": {"tp": 1, "pp": 1},
    "tp2": {"tp": 2, "pp": 1},
    "pp2": {"tp": 1, "pp": 2},
    "tp2-pp2": {"tp": 2, "pp": 2},
    "tp4, more than KV heads": {"tp": 4, "pp": 1},
    "pp2-vpp2": {"tp": 1, "pp": 2, "vpp": 2},
    "pp2, 3 and 1 layers": {"tp": 1, "pp": 2, "last": 1},
    "cp2-tp2": {"tp": 2, "pp": 1, "cp": 2},
}
PRODUCT = ("tp2-pp2", "tp4, more than KV heads")
"""Of the families that do not see all of them."""


def build(shape, tp: int, pp: int, vpp: int | None = None, last: int | None = None, cp: int = 1) -> list:
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    from megatron_patch.checkpoint.check.megatron import build_model, transformer_config

    parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(tp, pp, vpp, context_parallel_size=cp)
    model_parallel_cuda_manual_seed(1)
    more = {"num_layers_in_last_pipeline_stage": last} if last else {}
    config = transformer_config(
        shape, torch.bfloat16, tp, pp, virtual_pipeline_model_parallel_size=vpp, context_parallel_size=cp, **more
    )
    stages = range(vpp) if vpp else [None]
    return [build_model(shape, shape.vocab_size, config, vp_stage=stage) for stage in stages]


def spoil(chunks: list) -> None:
    for chunk in chunks:
        for parameter in chunk.parameters():
            parameter.data.fill_(float("nan"))


def compare(chunks: list, hf: dict, shape, tp: int) -> int:
    """Number of parameters compared; raises on the first that is wrong."""
    from megatron.core import parallel_state
    from models import megatron_layer, padded, rank_slice, same_bits

    rank, count = parallel_state.get_tensor_model_parallel_rank(), 0
    head = "model.embed_tokens.weight" if shape.tie_embeddings else "lm_head.weight"
    for chunk in chunks:
        numbers = [layer.layer_number - 1 for layer in chunk.decoder.layers]
        for name, parameter in chunk.named_parameters():
            if name.startswith("decoder.layers."):
                local, _, rest = name.removeprefix("decoder.layers.").partition(".")
                rest = rest.replace("input_layernorm.weight", "self_attention.linear_qkv.layer_norm_weight")
                rest = rest.replace("pre_mlp_layernorm.weight", "mlp.linear_fc1.layer_norm_weight")
                wanted = megatron_layer(hf, shape, numbers[int(local)])[rest]
            else:
                wanted = {
                    "embedding.word_embeddings.weight": lambda: padded(hf["model.embed_tokens.weight"]),
                    "decoder.final_layernorm.weight": lambda: hf["model.norm.weight"],
                    "output_layer.weight": lambda: padded(hf[head]),
                }[name]()
            if not same_bits(parameter.data, rank_slice(name, wanted, tp, rank)):
                raise AssertionError(f"{name} on rank {torch.distributed.get_rank()} is wrong")
            count += 1
    return count


def exercise(folder: Path, name: str, layout: dict) -> None:
    """Load one model at one layout, from both formats, and save it."""
    from megatron.core import dist_checkpointing
    from models import read_weights

    from megatron_patch.checkpoint.formats.hf_folder import model_of, read_config
    from megatron_patch.checkpoint.hf_start import load_hf_into

    shape, hf = model_of(read_config(folder / "hf"), str(folder), "auto"), read_weights(folder / "hf")
    chunks = build(shape, **layout)
    spoil(chunks)
    state = {f"model{i}": chunk.sharded_state_dict() for i, chunk in enumerate(chunks)}
    found = dist_checkpointing.load(state, str(folder / "megatron" / "release"), verify_integrity=True)
    assert found["checkpoint_version"] == 3.0
    for i, chunk in enumerate(chunks):
        chunk.load_state_dict(found[f"model{i}"])
    count = compare(chunks, hf, shape, layout["tp"])
    spoil(chunks)
    load_hf_into(chunks, folder / "hf")
    assert compare(chunks, hf, shape, layout["tp"]) == count
    total = torch.tensor(count)
    torch.distributed.all_reduce(total)
    saved = folder / "saved" / name
    if torch.distributed.get_rank() == 0:
        (saved / "iter_0000007").mkdir(parents=True)
        (saved / "latest_checkpointed_iteration.txt").write_text("7")
        print(f"{folder.name} at {name}: {total.item()} parameters", flush=True)
    torch.distributed.barrier()
    state = {f"model{i}": chunk.sharded_state_dict() for i, chunk in enumerate(chunks)}
    dist_checkpointing.save(state, str(saved / "iter_0000007"), async_strategy="mcore")
    save_per_rank(folder / "per_rank" / name, chunks, layout)


def save_per_rank(target: Path, chunks: list, layout: dict) -> None:
    """The old format, as `save_checkpoint` of 0.19.2 writes it: arguments and enumerations beside the weights."""
    from argparse import Namespace

    from megatron.core import parallel_state
    from megatron.core.enums import ModelType

    if parallel_state.get_data_parallel_rank(with_context_parallel=True):
        return
    place = f"mp_rank_{parallel_state.get_tensor_model_parallel_rank():02d}"
    if layout["pp"] > 1:
        place += f"_{parallel_state.get_pipeline_model_parallel_rank():03d}"
    models = [chunk.state_dict_for_save_checkpoint() for chunk in chunks]
    named = {"model": models[0]} if len(models) == 1 else {f"model{i}": model for i, model in enumerate(models)}
    more = {"args": Namespace(model_type=ModelType.encoder_or_decoder, params_dtype=torch.bfloat16), "iteration": 7}
    (target / "iter_0000007" / place).mkdir(parents=True)
    (target / "latest_checkpointed_iteration.txt").write_text("7")
    rng = {"rng_state": [{"torch_rng_state": torch.get_rng_state()}], "optimizer": {"exp_avg": torch.zeros(3)}}
    content = {**more, **named, **rng, "checkpoint_version": 3.0}
    torch.save(content, target / "iter_0000007" / place / "model_optim_rng.pt")


def main() -> None:
    enable("cpu")
    torch.distributed.init_process_group("gloo")
    for name, layout in LAYOUTS.items():
        for folder in map(Path, sys.argv[1:]):
            if name in PRODUCT or not (folder / "product layouts only").exists():
                exercise(folder, name, layout)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
