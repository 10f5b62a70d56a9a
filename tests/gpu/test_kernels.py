"""The kernels that stand for Megatron's compiled ones, against the formula in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F


@pytest.fixture(scope="module", autouse=True)
def enabled() -> None:
    """This process becomes a GPU rank."""
    from megatron_patch.backend import enable

    enable("cuda")
    torch.distributed.init_process_group("nccl", store=torch.distributed.HashStore(), rank=0, world_size=1)


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def test_swiglu() -> None:
    """Forward and backward through Megatron's own function."""
    from megatron.core.fusions.fused_bias_swiglu import bias_swiglu_impl

    torch.manual_seed(0)
    x = torch.randn(512, 1, 2048, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    grad = torch.randn(512, 1, 1024, device="cuda", dtype=torch.bfloat16)
    out = bias_swiglu_impl(x, None)
    out.backward(grad)
    exact = x.detach().double().requires_grad_()
    gate, up = exact.chunk(2, dim=-1)
    expected = F.silu(gate) * up
    expected.backward(grad.double())
    assert relative(out, expected.detach()) < 3e-3
    assert exact.grad is not None and relative(x.grad, exact.grad) < 3e-3


def test_residual_addition_is_exact() -> None:
    from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add

    x, residual = (torch.randn(64, 2, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    assert torch.equal(get_bias_dropout_add(True, True)((x, None), residual, 0.0), residual + x)


def test_embedding_gradient_is_bitwise_the_dense_one() -> None:
    """Through Megatron's layer, whose name for torch.nn.functional is ours."""
    from megatron.core.tensor_parallel import layers

    torch.manual_seed(0)
    ids = torch.randint(0, 1000, (2, 4096), device="cuda")
    grad = torch.randn(2, 4096, 256, device="cuda", dtype=torch.bfloat16)
    weight = torch.nn.Parameter(torch.randn(32000, 256, device="cuda", dtype=torch.bfloat16))
    weight.main_grad, weight.grad_added_to_main_grad = torch.randn(32000, 256, device="cuda"), False
    dense = weight.detach().clone().requires_grad_()
    F.embedding(ids, dense).backward(grad)
    expected = weight.main_grad + dense.grad
    layers.F.embedding(ids, weight).backward(grad)
    assert weight.grad_added_to_main_grad
    assert torch.equal(weight.main_grad, expected)


def test_tied_embeddings_keep_the_dense_gradient() -> None:
    """Theirs has to be added to the head's."""
    from megatron.core.tensor_parallel import layers

    weight = torch.nn.Parameter(torch.randn(64, 16, device="cuda"))
    weight.main_grad, weight.zero_out_wgrad = torch.zeros(64, 16, device="cuda"), True
    layers.F.embedding(torch.arange(8, device="cuda"), weight).sum().backward()
    assert weight.main_grad.abs().max() == 0 and weight.grad.sum() == 8 * 16


def test_fp8_weights_are_cast_in_rows_and_rightly() -> None:
    """A flat shard of fp32 master weights into fp8 weights, as the distributed optimizer does; then its transpose."""
    from transformer_engine.pytorch.constants import DType
    from transformer_engine.pytorch.tensor import utils
    from transformer_engine.pytorch.tensor.float8_tensor import Float8CurrentScalingQuantizer

    group = torch.distributed.group.WORLD
    master = torch.randn(256, 512, device="cuda")
    quantizer = Float8CurrentScalingQuantizer(DType.kFloat8E4M3, device=torch.device("cuda"))
    weight = quantizer(torch.zeros_like(master, dtype=torch.bfloat16))
    utils.cast_master_weights_to_fp8([weight], [master.view(-1)], [0], group, manual_post_all_gather_processing=True)
    utils.post_all_gather_processing([weight])
    assert relative(weight.dequantize(), master.double()) < 0.04
    assert torch.equal(weight._transpose.view(512, 256), weight._data.t())


def test_adam_keeps_its_state_where_it_is() -> None:
    """Asked for its groups, and given them back, it makes no copy of its moments; states of others it takes."""
    from transformer_engine.pytorch.optimizers import FusedAdam

    def stepped(value: float) -> FusedAdam:
        weight = torch.nn.Parameter(torch.ones(1 << 20, device="cuda"))
        adam = FusedAdam([weight], exp_avg_dtype=torch.bfloat16, exp_avg_sq_dtype=torch.bfloat16)
        weight.grad = torch.full_like(weight, value)
        adam.step()
        return adam

    adam, other = stepped(1.0), stepped(2.0)
    (moments,) = adam.state.values()
    first, before = moments["exp_avg"], torch.cuda.memory_allocated()
    adam.load_state_dict(adam.state_dict())
    assert torch.cuda.memory_allocated() == before
    assert next(iter(adam.state.values()))["exp_avg"] is first
    adam.load_state_dict(other.state_dict())
    assert torch.equal(next(iter(adam.state.values()))["exp_avg"], next(iter(other.state.values()))["exp_avg"])


def test_gradient_norm_that_is_no_number_ends_the_run() -> None:
    from megatron.core.optimizer import optimizer

    from megatron_patch.backend import BackendError

    bad = torch.tensor([1.0, float("nan")], device="cuda")
    with pytest.raises(BackendError, match="norm of the gradient is nan"):
        optimizer.get_grad_norm_fp32([bad])


@pytest.mark.parametrize(("groups", "ratio", "size"), [(8, 4, 128), (2, 8, 128), (4, 7, 128), (8, 4, 64)])
def test_split_and_rotation(groups: int, ratio: int, size: int) -> None:
    """Ours against the formula in float64: no further off than bf16's rounding."""
    from megatron_patch.backend.gpu.qkv_rope import SplitAndRotate, cosines_and_sines

    torch.manual_seed(0)
    half = torch.rand(1000, 1, 1, size // 2, device="cuda") * 50
    angles = torch.cat([half, half], -1)
    mixed = torch.randn(1000, 2, groups, (ratio + 2) * size, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    found = SplitAndRotate.apply(mixed, cosines_and_sines(angles), None)
    exact = mixed.detach().double().requires_grad_()
    heads, turn = exact.unflatten(-1, (ratio + 2, size)), angles.double().unsqueeze(2)
    first, second = heads[..., :-1, :].chunk(2, -1)
    turned = heads[..., :-1, :] * turn.cos() + torch.cat([-second, first], -1) * turn.sin()
    expected = turned[..., :-1, :].flatten(2, 3), turned[..., -1, :], heads[..., -1, :]
    grads = [torch.randn_like(part) for part in found]
    torch.autograd.backward(found, grads)
    torch.autograd.backward(expected, [grad.double() for grad in grads])
    assert max(relative(a, b.detach()) for a, b in zip(found, expected, strict=True)) < 3e-3
    assert exact.grad is not None and relative(mixed.grad, exact.grad) < 3e-3
