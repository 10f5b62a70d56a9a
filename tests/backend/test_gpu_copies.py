"""Copies of a checkpoint's tensors that are held on the GPU; here in RAM that stands for it."""

from __future__ import annotations

import contextlib
import io
import threading
from types import SimpleNamespace

import pytest
import torch

from megatron_patch.backend import gpu_memory
from megatron_patch.backend.saving import gpu_copies, host_copies
from megatron_patch.backend.saving.gpu_copies import Files, Held, held_bytes, hold
from megatron_patch.backend.saving.optimizer_shards import Remainders


class Ram:
    """Lends what a GPU would."""

    def __init__(self, room: int) -> None:
        self.room = room

    def free(self) -> int:
        return self.room

    def borrow(self, nbytes: int) -> torch.Tensor:
        assert nbytes <= self.room
        return torch.empty(nbytes, dtype=torch.uint8)


def files_of(*contents: object) -> Files:
    """Two files, the second with the last content."""
    items = [(SimpleNamespace(index=number), content) for number, content in enumerate(contents)]
    return [items[:-1], items[-1:]]


def some_contents() -> list[object]:
    """All kinds: in bf16 with an odd size, transposed, of no axis, in halves, no tensor."""
    halves = Remainders(
        weights=torch.randn(3, 7).bfloat16(), low=torch.randint(-32768, 32767, (3, 7), dtype=torch.int16)
    )
    matrix = torch.nn.Parameter(torch.randn(5, 13).t())
    return [torch.randn(333).bfloat16(), matrix, torch.tensor(3.0), io.BytesIO(b"x"), halves]


@pytest.fixture(autouse=True)
def in_ram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_copies, "HELD_ON", "cpu")
    monkeypatch.setattr(host_copies.Copier, "_stream", lambda *_: contextlib.nullcontext())  # a GPU's


def lend(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr(gpu_copies, "GPU_MEMORY", Ram(room))


def test_held_contents_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever overwrites them, the copies in RAM have the bits of the moment of the call."""
    lend(monkeypatch, 1 << 20)
    contents = some_contents()
    held = hold(files_of(*contents))
    kinds = [isinstance(content, Held) for items in held for _, content in items]
    assert kinds == [True, True, True, False, True]
    before = [content.in_fp32() if isinstance(content, Remainders) else content for content in contents]
    before = [tensor.clone() if isinstance(tensor, torch.Tensor) else tensor for tensor in before]
    for content in contents:
        tensors = [content.weights, content.low] if isinstance(content, Remainders) else [content]
        with torch.no_grad():
            [tensor.zero_() for tensor in tensors if isinstance(tensor, torch.Tensor)]
    copies = host_copies.Copier().copy(held, None, lambda: None)  # type: ignore[arg-type]
    after = [make() for items in copies for _, make in items]
    assert after[3] is contents[3]
    assert all(torch.equal(after[number], before[number]) for number in (0, 1, 2, 4))


@pytest.mark.parametrize(
    ("room", "expected"), [(0, []), (511, []), (512, [2]), (1024, [1, 2]), (1535, [1, 2]), (4096, [0, 1, 2])]
)
def test_as_many_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch, room: int, expected: list[int]) -> None:
    """The last ones, as the first are in RAM soonest; each takes whole units of the shared memory."""
    lend(monkeypatch, room)
    files = hold(files_of(torch.zeros(128, 2), torch.zeros(9), torch.zeros(8)))
    held = [item.index for items in files for item, content in items if isinstance(content, Held)]
    assert held == expected
    assert held_bytes(files) == sum(1024 if number == 0 else 512 for number in expected)


def test_nothing_lies_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    lend(monkeypatch, 1 << 20)
    monkeypatch.setattr(gpu_copies, "HELD_ON", "cuda")
    files = files_of(*some_contents())
    assert hold(files) is files


def test_the_optimizer_waits_for_what_is_not_held_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held contents are copied last, and may take as long as they like: until `may_change` here."""
    lend(monkeypatch, 512)
    files = hold(files_of(torch.ones(8), torch.ones(9), torch.ones(7)))
    may_change, order = threading.Event(), []
    original = host_copies.Copier._copy

    def copy(self: object, item: SimpleNamespace, content: object, *rest: object) -> object:
        if isinstance(content, Held):
            assert may_change.wait(60)
        order.append(item.index)
        return original(self, item, content, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(host_copies.Copier, "_copy", copy)
    host_copies.Copier().copy(files, None, may_change.set)  # type: ignore[arg-type]
    assert sorted(order) == [0, 1, 2] and order[-1] == 2


def test_what_can_be_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine tenths, less what others have and training's peak; the loan itself does not count as training's."""
    figures = {"max_memory_allocated": 400, "max_memory_reserved": 500, "memory_reserved": 450}
    for name in figures:
        monkeypatch.setattr(torch.cuda, name, lambda name=name: figures[name])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (480, 1000))  # 70 are somebody else's
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch, "empty", lambda nbytes, **_: bytes(nbytes))
    memory = gpu_memory.GpuMemory()
    assert memory.free() == 0  # no step was measured
    assert memory.step_peak() == (400, 500)
    assert memory.free() == 900 - 70 - 400
    memory.borrow(100)
    figures["max_memory_allocated"] = 500
    assert memory.step_peak()[0] == 400
    memory.give_back()
    assert memory.step_peak()[0] == 400  # it was lent when this step began
    figures["max_memory_allocated"] = 410
    assert memory.step_peak()[0] == 410
    assert memory.free() == 900 - 70 - 410
    figures["max_memory_allocated"] = 420  # in a validation
    assert memory.free() == 900 - 70 - 420
