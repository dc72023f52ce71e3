"""The attention kernel that CUDA would take, its limits, its temporaries, and calls of it on tensors without memory.

No GPU runs here: kernels are held against PyTorch's rules, limits against failures that others reported, and shapes
against the CPU's own attention.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from maxcrops.planning.dryrun._attention import (
    CONDITIONS,
    AttentionCall,
    AttentionPlatform,
    Kernel,
    bundled_cudnn,
    choose_kernel,
    largest_passing_batch,
    launch_problems,
    unmet,
)
from maxcrops.planning.dryrun._cuda import patched_sdpa
from maxcrops.planning.dryrun._launch import Launch
from maxcrops.planning.dryrun._temporaries import TEMPORARIES, cublas_workspace_bytes, extra_bytes

T4, A100, A10, L4, H100, B200, RTX_5090 = (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)


def platform(capability: tuple[int, int] = A100, torch_version: str = "2.13", cudnn: Any = "bundled") -> Any:
    version = bundled_cudnn(torch_version) if cudnn == "bundled" else cudnn
    return AttentionPlatform(capability, torch_version, version)


def call(batch: int = 2, heads: int = 16, queries: int = 729, **changes: Any) -> AttentionCall:
    return AttentionCall(
        **{"batch": batch, "heads": heads, "queries": queries, "keys": queries, "head_dim": 64} | changes
    )


# The choice


@pytest.mark.parametrize(
    ("capability", "torch_version", "changes", "kernel"),
    [
        # Without a mask: flash on Ampere and later, cuDNN first on Hopper and Blackwell data-center GPUs since 2.11.
        (A100, "2.6", {}, "flash"),
        (A100, "2.13", {}, "flash"),
        (L4, "2.13", {}, "flash"),
        (RTX_5090, "2.13", {}, "flash"),
        (H100, "2.8", {}, "flash"),
        (H100, "2.9", {}, "flash"),
        (H100, "2.10", {}, "flash"),
        (H100, "2.11", {}, "cudnn"),
        (H100, "2.13", {}, "cudnn"),
        (B200, "2.13", {}, "cudnn"),
        (H100, "2.13.0+cu130", {"dtype": "float32"}, "efficient"),
        # A mask: efficient, or cuDNN where that comes first.
        (A100, "2.13", {"mask": "bool"}, "efficient"),
        (A100, "2.13", {"mask": "float"}, "efficient"),
        (H100, "2.10", {"mask": "bool"}, "efficient"),
        (H100, "2.13", {"mask": "bool"}, "cudnn"),
        (H100, "2.13", {"mask": "float", "mask_shape": (1, 729, 729)}, "efficient"),
        (H100, "2.13", {"mask": "float", "mask_requires_grad": True}, "efficient"),
        # Types.
        (A100, "2.13", {"dtype": "float16"}, "flash"),
        (A100, "2.13", {"dtype": "float32"}, "efficient"),
        (A100, "2.13", {"dtype": "float64"}, "math"),
        (T4, "2.13", {"dtype": "float16"}, "efficient"),
        (T4, "2.13", {"dtype": "float32", "head_dim": 66}, "efficient"),
        (T4, "2.13", {"dtype": "bfloat16"}, "math"),
        # Head sizes: SigLIP's 72 is a multiple of 8; flash pads the others, efficient cannot.
        (A100, "2.13", {"head_dim": 72}, "flash"),
        (A100, "2.13", {"head_dim": 70}, "flash"),
        (A100, "2.13", {"head_dim": 70, "mask": "bool"}, "math"),
        (A100, "2.13", {"head_dim": 256}, "flash"),
        (A100, "2.13", {"head_dim": 320}, "efficient"),
        (A100, "2.13", {"head_dim": 192, "value_dim": 128}, "efficient"),
        (H100, "2.13", {"head_dim": 256}, "cudnn"),
        (B200, "2.13", {"head_dim": 256}, "flash"),
        (B200, "2.13", {"head_dim": 192, "value_dim": 128}, "cudnn"),
        (H100, "2.13", {"head_dim": 70}, "flash"),
        # Training of large heads on GPUs with little shared memory.
        (A10, "2.13", {"head_dim": 224}, "flash"),
        (A10, "2.13", {"head_dim": 224, "requires_grad": True}, "efficient"),
        (RTX_5090, "2.13", {"head_dim": 256, "requires_grad": True}, "flash"),
        (RTX_5090, "2.13", {"head_dim": 256, "requires_grad": True, "dropout": 0.1}, "efficient"),
        (A100, "2.13", {"head_dim": 224, "requires_grad": True}, "flash"),
        # Causal calls: flash wants a square.
        (A100, "2.13", {"causal": True}, "flash"),
        (A100, "2.13", {"causal": True, "keys": 1000}, "efficient"),
        (A100, "2.13", {"queries": 1, "keys": 1000}, "flash"),
        # Grouped heads.
        (A100, "2.13", {"heads": 32, "kv_heads": 8, "enable_gqa": True}, "flash"),
        (A100, "2.13", {"heads": 32, "kv_heads": 8, "enable_gqa": True, "mask": "bool"}, "math"),
        (H100, "2.13", {"heads": 32, "kv_heads": 8, "enable_gqa": True, "mask": "bool"}, "cudnn"),
        (A100, "2.13", {"heads": 32, "kv_heads": 5, "enable_gqa": True}, "math"),
        (A100, "2.13", {"heads": 32, "kv_heads": 8}, "math"),
        # cuDNN's own refusals.
        (H100, "2.13", {"keys": 1}, "flash"),
        (H100, "2.13", {"queries": 1, "keys": 9}, "cudnn"),
        (H100, "2.13", {"queries": 1, "keys": 9, "dropout": 0.125}, "flash"),
        (H100, "2.12", {"batch": 65536}, "cudnn"),
        (H100, "2.13", {"batch": 65535}, "cudnn"),
        (H100, "2.13", {"batch": 65536}, "flash"),
        (H100, "2.13", {"batch": 65536, "mask": "bool"}, "efficient"),
        # Layouts that no fused kernel takes, and empty ones.
        (A100, "2.13", {"fusable_layout": False}, "math"),
        (A100, "2.13", {"keys": 0}, "math"),
    ],
)
def test_choice(capability: tuple[int, int], torch_version: str, changes: dict[str, Any], kernel: str) -> None:
    assert choose_kernel(platform(capability, torch_version), call(**changes)) == kernel


def test_choice_follows_the_cudnn_given() -> None:
    assert choose_kernel(platform(H100, "2.9", (9, 10, 2)), call()) == "cudnn"
    assert choose_kernel(platform(H100, "2.13", (9, 15, 0)), call()) == "flash"
    assert choose_kernel(platform(H100, "2.13", (9, 15, 1)), call()) == "cudnn"
    assert choose_kernel(platform(H100, "2.13", None), call()) == "flash"
    assert choose_kernel(platform((10, 3), "2.13"), call()) == "cudnn"
    # cuDNN is first on no other GPU, however new.
    assert choose_kernel(platform(A100, "2.13", (9, 20, 0)), call()) == "flash"
    assert choose_kernel(platform(RTX_5090, "2.13", (9, 20, 0)), call()) == "flash"
    # 9.11 to 9.13 cannot drop out (#163903).
    assert choose_kernel(platform(H100, "2.9", (9, 12, 0)), call(dropout=0.1)) == "flash"
    assert choose_kernel(platform(H100, "2.9", (9, 12, 0)), call()) == "cudnn"


def test_a_refusal_says_why_and_where() -> None:
    conditions = unmet("flash", platform(T4), call(mask="bool", dtype="bfloat16"))
    assert [row.rule for row in conditions] == ["have no mask", "be on compute capability 8.0 to 12.1"]
    assert all(row.source and row.rule for row in CONDITIONS)
    assert {row.kernel for row in CONDITIONS} == {"flash", "efficient", "cudnn"}


def test_platforms() -> None:
    assert pickle.loads(pickle.dumps(platform(H100))) == platform(H100)
    with pytest.raises(ValueError, match=r"must be 2\.6 or newer, got '2\.5\.1'"):
        AttentionPlatform(A100, "2.5.1")
    with pytest.raises(ValueError, match=r"must look like '2\.13', got 'latest'"):
        AttentionPlatform(A100, "latest")


# Limits


@dataclass
class Report:
    """A failure that somebody reported, and the nearest shape that passed or must pass."""

    reference: str
    kernel: Kernel
    fails: AttentionCall
    passes: AttentionCall
    dimension: str
    torch_version: str = "2.6"
    effect: str = "error"


LONG_MASK = {"batch": 1, "heads": 1, "head_dim": 128, "mask": "bool"}


def masked(length: int, dtype: str) -> AttentionCall:
    return AttentionCall(**LONG_MASK, queries=length, keys=length, dtype=dtype, mask_shape=(length, length))


# Both numbers of a row were reported where its comment says so; elsewhere the neighbour follows from the limit.
REPORTS = [
    # 2**16 - 1 passes, 2**16 fails, in both kernels.
    Report(
        "pytorch #146704",
        "efficient",
        call(65536, 8, 4, dtype="float16"),
        call(65535, 8, 4, dtype="float16"),
        "grid.z (batch)",
    ),
    Report(
        "pytorch #146704",
        "flash",
        call(65536, 8, 4, dtype="float16"),
        call(65535, 8, 4, dtype="float16"),
        "grid.y (batch)",
    ),
    Report(
        "pytorch #142228",
        "efficient",
        call(100000, 1, 10, head_dim=16, dtype="float32"),
        call(65535, 1, 10, head_dim=16, dtype="float32"),
        "grid.z (batch)",
    ),
    # Two halves of 50,000 are the remedy given there.
    Report(
        "pytorch #142228",
        "efficient",
        call(100000, 10, 1, head_dim=16, dtype="float32"),
        call(50000, 10, 1, head_dim=16, dtype="float32"),
        "grid.z (batch)",
    ),
    Report(
        "pytorch #142228",
        "efficient",
        call(1, 65536, 10, head_dim=16, dtype="float32"),
        call(1, 65535, 10, head_dim=16, dtype="float32"),
        "grid.y (heads)",
        torch_version="2.13",
    ),
    Report(
        "xformers #845",
        "efficient",
        call(65536, 1, 16, head_dim=80, dtype="float32"),
        call(65535, 1, 16, head_dim=80, dtype="float32"),
        "grid.z (batch)",
    ),
    Report(
        "xformers #998",
        "efficient",
        call(262144, 1, 1, keys=121, head_dim=40, dtype="float16", mask="float"),
        call(65535, 1, 1, keys=121, head_dim=40, dtype="float16", mask="float"),
        "grid.z (batch)",
    ),
    # [1, 3, 71280, 128] as batch, length, heads, size: the heads are too many.
    Report(
        "flash-attention #1812",
        "flash",
        call(1, 71280, 3, head_dim=128),
        call(1, 65535, 3, head_dim=128),
        "grid.z (heads)",
        torch_version="2.13",
    ),
    # 1,280,000 tokens in sequences of 16 fail, 640,000 pass.
    Report(
        "flash-attention #1786",
        "flash",
        call(80000, 1, 16, dtype="float16"),
        call(40000, 1, 16, dtype="float16"),
        "grid.y (batch)",
        torch_version="2.7",
    ),
    # The forward pass alone is fine.
    Report(
        "TabPFN #1184",
        "flash",
        call(400, 4, 10496, keys=128, head_dim=128, requires_grad=True),
        call(400, 4, 10496, keys=128, head_dim=128),
        "elements of dQ's accumulator",
        torch_version="2.13",
    ),
    # Exactly 2**31 passes; 127 queries more are rounded up to 128 more.
    Report(
        "TabPFN #1184",
        "flash",
        call(256, 4, 16385, keys=128, head_dim=128, requires_grad=True),
        call(256, 4, 16384, keys=128, head_dim=128, requires_grad=True),
        "elements of dQ's accumulator",
        torch_version="2.13",
    ),
    # A head of 16 counts as 32.
    Report(
        "TabPFN #1184",
        "flash",
        call(4096, 4, 4097, keys=128, head_dim=16, requires_grad=True),
        call(4096, 4, 4096, keys=128, head_dim=16, requires_grad=True),
        "elements of dQ's accumulator",
        torch_version="2.13",
    ),
    # 65535 passes, 65536 fails.
    Report(
        "pytorch #181235",
        "cudnn",
        call(65536, 1, 1, keys=2, head_dim=8, dtype="float16", mask="bool"),
        call(65535, 1, 1, keys=2, head_dim=8, dtype="float16", mask="bool"),
        "batch",
        torch_version="2.12",
    ),
    Report("pytorch #180718", "cudnn", call(1, 65536, 8), call(1, 65535, 8), "heads", torch_version="2.12"),
    # PyTorch's own test: refused with dropout, computed in chunks without.
    Report(
        "pytorch #154029",
        "efficient",
        call(65536, 2, 2, head_dim=8, dtype="float16", dropout=0.01),
        call(65536, 2, 2, head_dim=8, dtype="float16"),
        "batch with dropout",
        torch_version="2.8",
    ),
    # 65000 and 65536 are right, these are not; with is_causal instead of a mask all are.
    *(
        Report(
            "pytorch #162588",
            "efficient",
            masked(length, "float32"),
            masked(65536, "float32"),
            "32-bit offset into the mask",
            torch_version="2.12",
            effect="silent",
        )
        for length in (65537, 66000, 68000)
    ),
    *(
        Report(
            "pytorch #187225",
            "efficient",
            masked(length, "bfloat16"),
            masked(65000, "bfloat16"),
            "32-bit offset into the mask",
            torch_version="2.12",
            effect="silent",
        )
        for length in (73728, 81920, 90000, 98304)
    ),
]


def test_reports_are_enough() -> None:
    assert len(REPORTS) >= 16
    assert len({(row.kernel, row.fails.shape) for row in REPORTS}) >= 16


@pytest.mark.parametrize("row", REPORTS, ids=lambda row: f"{row.reference} {row.kernel} {row.fails.shape}")
def test_reported_failures(row: Report) -> None:
    where = platform(torch_version=row.torch_version)
    (launch,) = launch_problems(row.kernel, where, row.fails)
    assert launch.dimension == row.dimension
    assert launch.size > launch.limit
    assert launch.effect == row.effect
    assert launch.shape == row.fails.shape
    assert launch.kernel == row.kernel
    number = row.reference.split("#")[1]
    assert f"#{number}" in launch.reference or number in ("845", "998")
    assert launch.phase == ("backward" if row.dimension.startswith("elements") else "forward")
    assert launch.operator.endswith("_backward") == (launch.phase == "backward")
    assert launch_problems(row.kernel, where, row.passes) == []


def test_limits_end_with_the_version_that_ended_them() -> None:
    batch = call(100000, 1, 10, head_dim=16, dtype="float32")
    assert launch_problems("efficient", platform(torch_version="2.7"), batch)
    assert not launch_problems("efficient", platform(torch_version="2.8"), batch)
    wrapped = masked(66000, "float32")
    assert launch_problems("efficient", platform(torch_version="2.12"), wrapped)
    assert not launch_problems("efficient", platform(torch_version="2.13"), wrapped)
    # A mask with one row for all queries never wraps; causality without a mask neither.
    assert not launch_problems("efficient", platform(torch_version="2.12"), replace(wrapped, mask_shape=(1, 66000)))
    causal = call(1, 1, 66000, head_dim=128, causal=True, dtype="float32")
    assert not launch_problems("efficient", platform(torch_version="2.12"), causal)


def molmo_adapter(batch_size: int, crops: int, **changes: Any) -> AttentionCall:
    """Molmo's pooling: each of 144 groups of 2 x 2 patches of every crop attends by itself."""
    return call(batch_size * crops * 144, 16, 1, keys=4, **changes)


def test_molmo_adapter_at_batch_64() -> None:
    flash = platform(A100, "2.13")
    assert launch_problems(choose_kernel(flash, molmo_adapter(64, 7)), flash, molmo_adapter(64, 7)) == []
    (launch,) = launch_problems(choose_kernel(flash, molmo_adapter(64, 8)), flash, molmo_adapter(64, 8))
    assert (launch.kernel, launch.dimension, launch.size) == ("flash", "grid.y (batch)", 73728)
    assert largest_passing_batch(flash, molmo_adapter(64, 8), 64) == 56


@pytest.mark.parametrize(
    ("capability", "torch_version", "dtype", "kernel", "fails"),
    [
        (A100, "2.6", "bfloat16", "flash", True),
        (A100, "2.13", "bfloat16", "flash", True),
        (H100, "2.11", "bfloat16", "cudnn", True),
        (H100, "2.13", "bfloat16", "flash", True),  # cuDNN refuses the batch, flash takes it and fails
        (T4, "2.7", "float16", "efficient", True),
        (T4, "2.8", "float16", "efficient", False),
        (T4, "2.13", "bfloat16", "math", False),
        (A100, "2.7", "float32", "efficient", True),  # as with the configuration's float32_attention
        (A100, "2.8", "float32", "efficient", False),
        (H100, "2.13", "float32", "efficient", False),
    ],
)
def test_molmo_adapter_fails_by_kernel_and_version(
    capability: tuple[int, int], torch_version: str, dtype: str, kernel: str, fails: bool
) -> None:
    where = platform(capability, torch_version)
    for crops in (7, 8, 13):
        adapter = molmo_adapter(64, crops, dtype=dtype)
        problems = launch_problems(choose_kernel(where, adapter), where, adapter)
        assert bool(problems) == (fails and crops >= 8)
    assert choose_kernel(where, molmo_adapter(64, 8, dtype=dtype)) == kernel


def test_molmo2_adapter_of_25_crops() -> None:
    """2758 pooled tokens a sample, 9 keys each: without padded slots there is no mask, and flash is taken."""
    where = platform(A100)
    assert launch_problems("flash", where, call(23 * 2758, 16, 1, keys=9, head_dim=72)) == []
    adapter = call(24 * 2758, 16, 1, keys=9, head_dim=72)
    assert choose_kernel(where, adapter) == "flash"
    assert [launch.size for launch in launch_problems("flash", where, adapter)] == [66192]
    assert largest_passing_batch(where, adapter, 24) == 23
    # With a mask the efficient kernel takes it, in chunks since 2.8.
    padded = replace(adapter, mask="bool", mask_shape=(adapter.batch, 1, 1, 9))
    assert choose_kernel(where, padded) == "efficient"
    assert largest_passing_batch(where, padded, 24) == 24
    assert largest_passing_batch(platform(A100, "2.7"), padded, 24) == 23


def test_largest_passing_batch() -> None:
    where = platform(H100, "2.13")
    # Below 65536 entries cuDNN, above flash, which fails: the choice moves with the batch.
    assert largest_passing_batch(where, call(100 * 1000, 16, 1, keys=4), 100) == 65
    assert largest_passing_batch(where, call(10, 16, 729), 10) == 10
    # Too many heads: no batch helps.
    assert largest_passing_batch(platform(A100), call(4, 70000, 8), 4) == 0
    # A sample beyond the limit by itself.
    assert largest_passing_batch(platform(A100), call(2 * 70000, 16, 1, keys=4), 2) == 0
    # Training: dQ's accumulator, 4 * 4096 * 128 elements an entry, 2**31 of them at 1024.
    training = call(2000, 4, 4096, head_dim=128, requires_grad=True)
    assert largest_passing_batch(platform(A100), training, 2000) == 1024
    assert largest_passing_batch(platform(A100), replace(training, requires_grad=False), 2000) == 2000
    with pytest.raises(ValueError, match="samples must be at least 1"):
        largest_passing_batch(where, call(), 0)


def test_grouped_heads_of_one_query_take_its_place() -> None:
    where = platform(A100)
    grouped = call(1, 70000, 1, keys=9, kv_heads=35000, enable_gqa=True)
    assert launch_problems("flash", where, grouped) == []
    assert launch_problems("flash", where, replace(grouped, queries=2))


# Temporaries


def like(*shape: int, dtype: str = "torch.bfloat16") -> Any:
    return SimpleNamespace(shape=shape, dtype=dtype)


def attention_args(
    queries: tuple[int, ...], keys: tuple[int, ...], dtype: str = "torch.bfloat16", *, backward: bool = True
) -> list[Any]:
    tensors = [like(*queries, dtype=dtype), like(*keys, dtype=dtype), like(*keys, dtype=dtype)]
    return [like(*queries, dtype=dtype), *tensors] if backward else tensors


FLASH, EFFICIENT, CUDNN = (
    f"aten::_scaled_dot_product_{kernel}_attention" for kernel in ("flash", "efficient", "cudnn")
)


def test_flash_backward() -> None:
    # 729 queries count as 768, heads of 72 as 96: the accumulator of dQ and one sum a row.
    args = attention_args((2, 16, 729, 72), (2, 16, 729, 72))
    assert extra_bytes(f"{FLASH}_backward", platform(), args) == 2 * 16 * 768 * (96 + 1) * 4
    # Four query heads a key head: dK and dV of all 32 heads as well.
    args = attention_args((1, 32, 1024, 128), (1, 8, 1024, 128))
    accumulator = 32 * 1024 * (128 + 1) * 4
    assert extra_bytes(f"{FLASH}_backward", platform(), args) == accumulator + 2 * 1024 * 32 * 128 * 2


def test_efficient() -> None:
    args = attention_args((2, 16, 1000, 128), (2, 16, 1000, 128), backward=False)
    assert extra_bytes(EFFICIENT, platform(), args) == 0
    args = attention_args((2, 16, 1000, 256), (2, 16, 1000, 256), backward=False)
    assert extra_bytes(EFFICIENT, platform(), args) == 2 * 16 * 1000 * 256 * 4
    args = attention_args((2, 16, 1000, 256), (2, 16, 1000, 256), "torch.float32", backward=False)
    assert extra_bytes(EFFICIENT, platform(), args) == 0
    # Chunks of 65535 beside the whole output, from 2.8 on.
    args = attention_args((70000, 16, 1, 64), (70000, 16, 4, 64), backward=False)
    assert extra_bytes(EFFICIENT, platform(torch_version="2.7"), args) == 0
    assert extra_bytes(EFFICIENT, platform(), args) == 65535 * 16 * 64 * 2


def test_efficient_backward() -> None:
    # Heads of 64: tiles of 64 x 64 with 4 words before each; 1024 queries make 16 of them for each head.
    args = attention_args((2, 16, 1024, 64), (2, 16, 1024, 64))
    delta = 2 * 16 * 1024 * 4
    assert extra_bytes(f"{EFFICIENT}_backward", platform(), args) == delta + 32 * 16 * (64 * 64 + 4) * 4
    # Heads of 128: one tile of 128 x 128 on A100, 64 x 64 and dK, dV in memory on GPUs with less shared memory.
    args = attention_args((1, 16, 1024, 128), (1, 16, 1024, 128))
    delta = 16 * 1024 * 4
    assert extra_bytes(f"{EFFICIENT}_backward", platform(), args) == delta + 16 * 8 * (128 * 128 + 4) * 4
    splits = 200 // 16  # of the 16 blocks of keys that there are
    small = 16 * 2 * (64 * 64 + 4) + splits * 64 * (128 + 128)
    assert extra_bytes(f"{EFFICIENT}_backward", platform(L4), args) == delta + 16 * small * 4


def test_other_operators() -> None:
    where = platform()
    rows = CUDNN + "_backward"
    assert extra_bytes(rows, where, attention_args((1, 8, 100, 64), (1, 8, 100, 64))) == 8 * 100 * 65 * 4
    # Molmo2's merge: 8 bytes an element, and the mask broadcast to it.
    embeddings, mask = like(1, 2800, 4096), like(1, 2800, 1, dtype="torch.bool")
    assert extra_bytes("aten::masked_scatter", where, [embeddings, mask, None]) == 9 * 2800 * 4096
    assert extra_bytes("aten::masked_scatter_", where, [embeddings, embeddings, None]) == 8 * 2800 * 4096
    taken = torch.zeros(10, 20, dtype=torch.bool)
    taken[2, :5] = True
    assert extra_bytes("aten::index", where, [like(10, 20, 30), [taken]]) == 8 * 2 * 5
    assert extra_bytes("aten::index", where, [like(10, 20, 30), [None, like(4, dtype="torch.int64")]]) == 0
    with FakeTensorMode():
        assert extra_bytes("aten::index", where, [like(10, 20), [torch.zeros(10, 20, dtype=torch.bool)]]) == 8 * 2 * 200
    index = like(1000, dtype="torch.int64")
    assert extra_bytes("aten::index_put_", where, [like(10, 20), [index], like(1000, 20)]) == 0
    assert extra_bytes("aten::index_put_", where, [like(10, 20), [index], like(1000, 20), True]) == 48 * 1000
    tokens = like(1, 4000, dtype="torch.int64")
    assert extra_bytes("aten::embedding_dense_backward", where, [like(1, 4000, 64), tokens]) == 40 * 4000 + 400 * 64 * 4
    assert extra_bytes("aten::add", where, []) == 0
    assert all(row.text and row.source for row in TEMPORARIES)


def test_cublas_workspace() -> None:
    # 8519680 bytes is what users see in memory snapshots.
    assert cublas_workspace_bytes(platform(A100)) == 8519680
    assert cublas_workspace_bytes(platform(H100, "2.6")) == 32 * 2**20
    assert cublas_workspace_bytes(platform(B200)) == 32 * 2**20


# Calls on tensors without memory


Seen = list[tuple[str, tuple[int, ...], list[Launch]]]


@contextmanager
def patched(where: AttentionPlatform) -> Iterator[Seen]:
    seen: Seen = []

    def note(kernel: Kernel, call: AttentionCall) -> None:
        seen.append((kernel, call.shape, launch_problems(kernel, where, call)))

    with patched_sdpa(where, on_call=note):
        yield seen


def projections(
    heads: int, kv_heads: int, queries: int, keys: int, head_dim: int, dtype: torch.dtype, *, grad: bool = False
) -> list[torch.Tensor]:
    """[2, heads, length, size], as models make them: transposed views of [2, length, heads, size]."""
    sizes = [(heads, queries), (kv_heads, keys), (kv_heads, keys)]
    return [
        torch.zeros(2, length, count, head_dim, dtype=dtype, requires_grad=grad).transpose(1, 2)
        for count, length in sizes
    ]


def described(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device.type


CASES = [
    # platform, kernel, heads, kv_heads, queries, keys, size, dtype, mask, options
    (platform(A100), "flash", 4, 4, 24, 24, 64, torch.bfloat16, None, {}),
    (platform(A100), "flash", 4, 4, 24, 24, 64, torch.bfloat16, None, {"is_causal": True}),
    (platform(A100), "flash", 4, 4, 24, 40, 72, torch.float16, None, {"scale": 0.5}),
    (platform(A100), "flash", 8, 2, 24, 24, 64, torch.bfloat16, None, {"enable_gqa": True}),
    (platform(A100), "efficient", 4, 4, 24, 40, 64, torch.bfloat16, (2, 1, 24, 40), {}),
    (platform(A100), "efficient", 4, 4, 24, 37, 64, torch.bfloat16, (2, 1, 24, 37), {}),
    (platform(A100), "efficient", 4, 4, 24, 37, 64, torch.bfloat16, (24, 37), {}),
    (platform(A100), "efficient", 4, 4, 24, 37, 64, torch.float32, (2, 1, 1, 37), {}),
    (platform(A100), "efficient", 4, 4, 24, 24, 64, torch.float32, None, {"is_causal": True}),
    (platform(H100), "cudnn", 4, 4, 24, 37, 64, torch.bfloat16, (2, 1, 24, 37), {}),
    (platform(H100), "cudnn", 8, 2, 24, 24, 64, torch.bfloat16, None, {"enable_gqa": True}),
    (platform(A100), "math", 8, 2, 24, 37, 64, torch.bfloat16, (2, 1, 24, 37), {"enable_gqa": True}),
    (platform(T4), "math", 4, 4, 24, 24, 64, torch.bfloat16, None, {"is_causal": True}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]}-{case[4]}x{case[5]}-{case[7]}-{case[8]}-{case[9]}")
@pytest.mark.parametrize("grad", [False, True], ids=["forward", "backward"])
def test_fake_calls_have_the_shapes_of_real_ones(case: Any, grad: bool) -> None:
    where, kernel, heads, kv_heads, queries, keys, head_dim, dtype, mask_shape, options = case

    def run() -> list[tuple[Any, ...]]:
        inputs = projections(heads, kv_heads, queries, keys, head_dim, dtype, grad=grad)
        leaves = [tensor._base if grad else tensor for tensor in inputs]
        mask = None if mask_shape is None else torch.ones(mask_shape, dtype=torch.bool)
        output = functional.scaled_dot_product_attention(*inputs, attn_mask=mask, **options)
        results = [output]
        if grad:
            output.sum().backward()
            results += [cast(torch.Tensor, leaf).grad for leaf in leaves]
        return [described(cast(torch.Tensor, tensor)) for tensor in results]

    real = run()
    with FakeTensorMode(), patched(where) as seen:
        fake = run()
    # The math kernel's output is a product, in rows; the CPU's own kernel keeps the query's layout.
    if kernel == "math":
        real, fake = ([(shape, dtype) for shape, _, dtype, _ in rows] for rows in (real, fake))
    assert fake == real
    assert [name for name, _, _ in seen] == [kernel]
    assert seen[0][1] == (2, heads, queries, keys, head_dim)


def test_heads_that_are_no_multiple_of_8_are_padded() -> None:
    with FakeTensorMode(), patched(platform(A100)) as seen, Sizes() as sizes:
        output = functional.scaled_dot_product_attention(*projections(4, 4, 24, 24, 70, torch.bfloat16))
    assert output.shape == (2, 4, 24, 70)
    assert seen[0][0] == "flash"
    assert [size for name, size in sizes.made if name == "aten.constant_pad_nd.default"] == [2 * 4 * 24 * 72 * 2] * 3


@pytest.mark.parametrize("dimensions", [2, 3, 5])
def test_other_dimensions_take_math(dimensions: int) -> None:
    shape = (2, 3, 4, 24, 64)[5 - dimensions :]
    with FakeTensorMode(), patched(platform(A100)) as seen:
        inputs = [torch.zeros(shape, dtype=torch.bfloat16) for _ in range(3)]
        assert functional.scaled_dot_product_attention(*inputs).shape == shape
    assert [name for name, _, _ in seen] == ["math"]


def test_expanded_heads_keep_their_memory() -> None:
    """Keys and values of one head, seen by all: the fused kernels read them where they lie."""
    with FakeTensorMode(), patched(platform(A100)) as seen, Sizes() as sizes:
        query = torch.zeros(2, 8, 24, 64, dtype=torch.bfloat16)
        key = torch.zeros(2, 1, 24, 64, dtype=torch.bfloat16).expand(2, 8, 24, 64)
        sizes.made.clear()
        functional.scaled_dot_product_attention(query, key, key)
    assert [name for name, _, _ in seen] == ["flash"]
    assert sum(size for _, size in sizes.made) < 2 * query.numel() * 2


class Sizes(TorchDispatchMode):
    """Operators and the bytes of the new tensors that each makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            outputs = result if isinstance(result, (tuple, list)) else (result,)
            made = sum(t.numel() * t.element_size() for t in outputs if isinstance(t, torch.Tensor))
            self.made.append((str(func), made))
        return result


@pytest.mark.parametrize(("where", "kernel"), [(platform(A100), "efficient"), (platform(H100), "cudnn")])
@pytest.mark.parametrize("keys", [37, 40])
def test_masks_are_converted_in_memory(where: AttentionPlatform, kernel: str, keys: int) -> None:
    with FakeTensorMode(), patched(where), Sizes() as sizes:
        mask = torch.ones(2, 1, 24, keys, dtype=torch.bool)
        functional.scaled_dot_product_attention(*projections(4, 4, 24, keys, 64, torch.bfloat16), attn_mask=mask)
    made = dict(sizes.made)
    elements = 2 * 24 * keys
    assert made["aten.logical_not.default"] == elements
    assert made["aten.where.self"] == 2 * elements
    padded = made.get("aten.constant_pad_nd.default")
    assert padded == (2 * 2 * 24 * 40 if kernel == "efficient" and keys == 37 else None)


def test_float_masks_are_taken_as_they_are() -> None:
    with FakeTensorMode(), patched(platform(A100)), Sizes() as sizes:
        mask = torch.zeros(2, 1, 24, 40, dtype=torch.bfloat16)
        functional.scaled_dot_product_attention(*projections(4, 4, 24, 40, 64, torch.bfloat16), attn_mask=mask)
    assert not {"aten.where.self", "aten.constant_pad_nd.default"} & {name for name, _ in sizes.made}


@pytest.mark.parametrize("mask_shape", [None, (2, 1, 24, 24)])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoints_recompute_the_same_kernel(mask_shape: Any, use_reentrant: bool) -> None:
    with FakeTensorMode(), patched(platform(A100)) as seen:
        inputs = projections(4, 4, 24, 24, 64, torch.bfloat16, grad=True)
        mask = None if mask_shape is None else torch.ones(mask_shape, dtype=torch.bool)

        def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)

        output = cast(torch.Tensor, checkpoint(attend, *inputs, use_reentrant=use_reentrant))
        output.sum().backward()
        assert all(isinstance(cast(torch.Tensor, tensor._base).grad, FakeTensor) for tensor in inputs)
    assert [name for name, _, _ in seen] == ["flash" if mask is None else "efficient"] * 2


def test_logsumexp_is_kept_for_the_backward_pass_only() -> None:
    for grad in (False, True):
        with FakeTensorMode(), patched(platform(A100)), Sizes() as sizes:
            mask = torch.ones(2, 1, 24, 40, dtype=torch.bool)
            inputs = projections(4, 4, 24, 40, 64, torch.bfloat16, grad=grad)
            functional.scaled_dot_product_attention(*inputs, attn_mask=mask)
        made = dict(sizes.made)["aten._scaled_dot_product_efficient_attention.default"]
        # The output, seed and offset, and one float32 a query, in 32s.
        assert made == 2 * 4 * 24 * 64 * 2 + 16 + (2 * 4 * 32 * 4 if grad else 0)


def test_problems_are_told_with_the_call() -> None:
    with FakeTensorMode(), patched(platform(A100)) as seen:
        inputs = [torch.empty(65536, 16, length, 64, dtype=torch.bfloat16) for length in (1, 4, 4)]
        functional.scaled_dot_product_attention(*inputs)
    ((kernel, shape, launches),) = seen
    assert (kernel, shape) == ("flash", (65536, 16, 1, 4, 64))
    assert [launch.dimension for launch in launches] == ["grid.y (batch)"]


def test_real_tensors_and_errors_go_to_the_original() -> None:
    query = torch.randn(2, 4, 24, 64)
    expected = functional.scaled_dot_product_attention(query, query, query)
    with patched(platform(A100)) as seen:
        torch.testing.assert_close(functional.scaled_dot_product_attention(query, query, query), expected)
        with FakeTensorMode():
            fake = torch.empty(2, 4, 24, 64)
            with pytest.raises(RuntimeError, match="same dtype"):
                functional.scaled_dot_product_attention(fake, fake.half(), fake)
    assert seen == []


def test_the_original_comes_back() -> None:
    original = functional.scaled_dot_product_attention
    with patched(platform(A100)):
        assert functional.scaled_dot_product_attention is not original
    assert functional.scaled_dot_product_attention is original

    def fail() -> None:
        with patched(platform(A100)):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert functional.scaled_dot_product_attention is original
