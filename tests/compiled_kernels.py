"""Compiles the kernels for GPUs that need not be here, and prints what came out as JSON. test_kernels.py runs this file
in a process of its own, in which Triton compiles."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from maxcrops.kernels import crops as kernels

TABLES = {"words_ptr": "*i64", "floats_ptr": "*fp32"}
BEGINS = {"view_words": "i32", "crop_words": "i32"}
SEARCH = {"view_words": "i32", "num_views": "i32", "search_steps": "i32"}


def launches() -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any]]]:
    """(name, kernel, types of its arguments, constants) as maxcrops.preprocess._triton launches them for Molmo2's crops
    of 27 patches a side and Molmo's of 24. A pointer is to 16 bytes, as torch's memory is."""
    for dtype in ("fp32", "bf16", "fp16"):
        out = {"out_ptr": f"*{dtype}"}
        molmo2 = {"PATCH": 14, "SIDE": 27, "BLOCK": kernels.BLOCK, "ALIGNMENT": 4}
        molmo = {"PATCH": 14, "SIDE": 24, "BLOCK": kernels.BLOCK, "ALIGNMENT": 16}
        with_workspace = {**out, "workspace_ptr": "*fp32", **TABLES, **BEGINS}
        for by_arithmetic in (True, False):
            end = f"{'' if by_arithmetic else '_divided'}-{dtype}"
            chosen = {"BY_ARITHMETIC": by_arithmetic}
            yield f"rounded{end}", kernels.rounded_crops_kernel, {**out, **TABLES, **BEGINS}, {**molmo2, **chosen}
            yield f"antialiased{end}", kernels.antialiased_crops_kernel, with_workspace, {**molmo, **chosen}
    types = {"workspace_ptr": "*fp32", **TABLES, **SEARCH}
    yield "resized-rows", kernels.resized_rows_kernel, types, kernels.TILE


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], arch: int) -> Any:
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in types if name.endswith("_ptr")},
    )
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=dict(kernels.OPTIONS))


def listed(tool: str, options: list[str], cubin: bytes) -> str:
    """What one of the wheel's own tools says of a kernel."""
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([path, *options, file.name], capture_output=True, text=True, check=True).stdout


def resources(cubin: bytes) -> dict[str, int]:
    """Registers a thread, bytes of stack, shared and local memory."""
    usage = listed("cuobjdump", ["-res-usage"], cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    assert found, usage
    return dict(zip(("registers", "stack", "shared", "local"), map(int, found.groups()), strict=True))


def instructions(cubin: bytes) -> dict[str, Any]:
    """The most that a thread executes: from begin to end if no loop is repeated, and of each loop's body, in the order
    of their ends. What a kernel calls, the slow path of a division, is left out."""
    lines, labels = list[str](), dict[str, int]()
    for line in listed("nvdisasm", ["-c"], cubin).splitlines():
        if label := re.match(r"(\.L_\w+):", line):
            labels[label[1]] = len(lines)
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            lines.append(found[1])
    behind = list[set[int]]()  # of each, those that may be next, loops not repeated
    loops = list[tuple[int, int]]()
    for index, line in enumerate(lines):
        jump = re.match(r"(@\S+ )?(?:BRA(\.DIV)?|(EXIT|RET))\b(?:.*\((\.L_\w+)\))?", line)
        following = {index + 1}
        if jump and not jump[2]:  # a branch for divided warps is never taken by whole ones
            target = labels.get(jump[4], 0)
            if not jump[1] and not re.search(r"\bU?P\d", line):
                following.clear()
            if not jump[3] and target > index:
                following.add(target)
            elif not jump[3] and target < index:
                loops.append((target, index))
        behind.append({other for other in following if other < len(lines)})

    def most(begin: int, end: int) -> int:
        longest = [0] * (len(lines) + 1)
        for index in range(end, begin - 1, -1):
            inside = [longest[other] for other in behind[index] if begin < other <= end]
            longest[index] = (not lines[index].startswith("NOP")) + max(inside, default=0)
        return longest[begin]

    return {"once": most(0, len(lines) - 1), "loops": [most(begin, end) for begin, end in loops]}


def count(pattern: str, ptx: str) -> int:
    """Occurrences; those of two floats at once count as two."""
    return sum(2 if "f32x2" in found else 1 for found in re.findall(pattern + r"\S*", ptx))


def facts_of(kernel: Any) -> dict[str, Any]:
    ptx = re.sub(r"//.*", "", kernel.asm["ptx"])
    return {
        **resources(kernel.asm["cubin"]),
        "instructions": instructions(kernel.asm["cubin"]),
        "dynamic_shared": kernel.metadata.shared,
        "threads": kernel.metadata.num_warps * 32,
        "loads": dict(Counter(re.findall(r"ld\.global\S*", ptx))),
        "stores": re.findall(r"st\.global\S*", ptx),
        "fused": count(r"\bfma\.rn\.f32", ptx),
        "inexact": re.findall(r"\S+\.(?:approx|full|ftz|rz)\S*f32\S*", ptx),
        "may_fuse": re.findall(r"\b(?:mul|add|sub|mad)\.f32\S*", ptx),
        "divisions": count(r"\bdiv\.rn\.f32", ptx),
        "to_16_bits": re.findall(r"cvt\S*\.b?f16\S*", ptx),
    }


if __name__ == "__main__":
    results = {
        f"{name}-sm_{arch}": facts_of(compiled(kernel, types, constants, int(arch)))
        for arch in sys.argv[1:]
        for name, kernel, types, constants in launches()
    }
    print(json.dumps(results))
