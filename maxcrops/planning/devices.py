"""GPUs by name or by memory: what a plan fits a model into, and how fast it may run.

Memory is what PyTorch reports as total (``torch.cuda.get_device_properties``, the "total capacity" of its out-of-memory
messages), the smallest value seen in public logs, in MiB: a card sold as 80 GB has 79.1 GiB. Rates are the vendor's
peak without sparsity, with float32 accumulation where a card has two rates. The A100 of 80 GB as a PCIe card reads
1935 GB/s, the SXM4 module given here 2039. Each source says what was checked: "seen" memory was found in public logs,
rates "from memory" were not looked up again and may be off by a few percent.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

_MIB = 2**20
# Smaller than any GPU with tensor cores, larger than any single device; catches 80 (meant as GB) and bits for bytes.
_MEMORY_RANGE = (2**28, 2**42)
_UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


@dataclass(frozen=True)
class Device:
    """A GPU. What is not known of one given by its memory alone is None, or empty."""

    key: str
    """Its name in calls and tables: "h100"."""
    name: str
    memory_bytes: int
    """What PyTorch reports as total. The CUDA context, some 0.3 to 0.6 GB, is still to be taken off."""
    compute_capability: tuple[int, int] | None = None
    bandwidth_bytes_per_second: float | None = None
    dense_flops: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Peak per second of matrix products, by dtype: "bfloat16", "float16", "float32" (without TF32, PyTorch's default).
    A dtype that tensor cores do not know runs at the float32 rate."""
    source: str = ""
    """Where the numbers come from, and which are unverified."""
    assumption: str | None = None
    """What was assumed rather than given, in words for the reader of a plan."""

    @property
    def is_compute_known(self) -> bool:
        """Whether latency can be estimated and kernels chosen without an assumption."""
        return self.compute_capability is not None

    def with_compute_of(self, value: Device | str) -> Device:
        """This memory with another device's rates and kernels, and the assumption that this makes.

        >>> get_device("60GB").with_compute_of("a100-80gb").assumption
        'rates and kernels of an NVIDIA A100 80GB'
        """
        other = get_device(value)
        if not other.is_compute_known:
            raise ValueError(
                f"[get_device] with_compute_of must name a GPU, got {value!r}, a memory; known GPUs: {_names()}"
            )
        return replace(
            self,
            compute_capability=other.compute_capability,
            bandwidth_bytes_per_second=other.bandwidth_bytes_per_second,
            dense_flops=other.dense_flops,
            assumption=f"rates and kernels of an {other.name}",
        )


def _device(
    key: str,
    name: str,
    mib: int,
    capability: tuple[int, int],
    gigabytes_per_second: int,
    half_tflops: float,
    float_tflops: float,
    source: str,
) -> Device:
    # Before compute capability 8.0 tensor cores know float16 only; bfloat16 is emulated on float32 units.
    bfloat_tflops = half_tflops if capability >= (8, 0) else float_tflops
    return Device(
        key=key,
        name=name,
        memory_bytes=mib * _MIB,
        compute_capability=capability,
        bandwidth_bytes_per_second=gigabytes_per_second * 1e9,
        dense_flops={
            "bfloat16": bfloat_tflops * 1e12,
            "float16": half_tflops * 1e12,
            "float32": float_tflops * 1e12,
        },
        source=source,
    )


DEVICES: tuple[Device, ...] = (
    # key, name, MiB, compute capability, GB/s, TFLOP/s of tensor cores, TFLOP/s in float32, source
    _device("a100-40gb", "NVIDIA A100 40GB", 40_325, (8, 0), 1555, 312, 19.5, "A100 data sheet (SXM4); 39.38 GiB seen"),
    _device("a100-80gb", "NVIDIA A100 80GB", 81_039, (8, 0), 2039, 312, 19.5, "A100 data sheet (SXM4); 79.14 GiB seen"),
    _device(
        "h100", "NVIDIA H100 SXM 80GB", 81_082, (9, 0), 3350, 989.4, 66.9, "H100 data sheet (SXM5); 81082 MiB seen"
    ),
    _device("h100-pcie", "NVIDIA H100 PCIe 80GB", 81_008, (9, 0), 2000, 756, 51, "H100 data sheet; 81008 MiB seen"),
    _device("h200", "NVIDIA H200 SXM 141GB", 143_156, (9, 0), 4800, 989.4, 66.9, "H200 data sheet; 143156 MiB seen"),
    _device("b200", "NVIDIA B200 180GB", 182_631, (10, 0), 8000, 2250, 80, "HGX B200 data sheet; 182631 MiB seen"),
    _device(
        "l4", "NVIDIA L4 24GB", 22_558, (8, 9), 300, 121, 30.3, "L4 data sheet (float32 from memory); 22.03 GiB seen"
    ),
    _device("l40s", "NVIDIA L40S 48GB", 45_404, (8, 9), 864, 362, 91.6, "L40S data sheet; 44.34 GiB seen"),
    _device(
        "a10", "NVIDIA A10 24GB", 22_587, (8, 6), 600, 125, 31.2, "A10 data sheet (rates from memory); memory as A10G"
    ),
    _device("a10g", "NVIDIA A10G 24GB", 22_587, (8, 6), 600, 70, 35, "AWS G5 (rates from memory); 22587 MiB seen"),
    _device(
        "rtx-5090",
        "NVIDIA GeForce RTX 5090 32GB",
        32_112,
        (12, 0),
        1792,
        209.5,
        104.8,
        "RTX Blackwell architecture paper (rates from memory); 31.36 GiB seen",
    ),
    _device(
        "rtx-4090",
        "NVIDIA GeForce RTX 4090 24GB",
        24_084,
        (8, 9),
        1008,
        165.2,
        82.6,
        "Ada architecture paper; 23.52 GiB seen",
    ),
    _device(
        "rtx-3090",
        "NVIDIA GeForce RTX 3090 24GB",
        24_125,
        (8, 6),
        936,
        71,
        35.6,
        "GA102 architecture paper (rates from memory); 23.56 GiB seen",
    ),
    _device("t4", "NVIDIA T4 16GB", 14_930, (7, 5), 320, 65, 8.1, "T4 data sheet (from memory); 14930 MiB seen"),
    _device(
        "v100-16gb",
        "NVIDIA V100 SXM2 16GB",
        16_130,
        (7, 0),
        900,
        125,
        15.7,
        "V100 data sheet (from memory); 16130 MiB seen",
    ),
    _device(
        "v100-32gb",
        "NVIDIA V100 SXM2 32GB",
        32_491,
        (7, 0),
        900,
        125,
        15.7,
        "V100 data sheet (from memory); 31.73 GiB seen",
    ),
)
"""Every known GPU."""


def _plain(name: str) -> str:
    """A name without case, spaces, hyphens and the words that brand it."""
    return re.sub(r"nvidia|geforce|tesla|[\s_\-]", "", name.lower())


# Other spellings. A100 and V100 alone are not names: they were sold in two sizes.
_ALIASES = {
    "a10040": "a100-40gb",
    "a10080": "a100-80gb",
    "a100sxm440gb": "a100-40gb",
    "a100sxm480gb": "a100-80gb",
    "a100pcie40gb": "a100-40gb",
    "a100pcie80gb": "a100-80gb",
    "a10080gbpcie": "a100-80gb",
    "h10080gb": "h100",
    "h100sxm": "h100",
    "h100sxm5": "h100",
    "h10080gbhbm3": "h100",
    "h200sxm": "h200",
    "5090": "rtx-5090",
    "4090": "rtx-4090",
    "3090": "rtx-3090",
    "v10016": "v100-16gb",
    "v10032": "v100-32gb",
    "v100sxm216gb": "v100-16gb",
    "v100sxm232gb": "v100-32gb",
}
_BY_NAME = {_plain(device.key): device for device in DEVICES} | {_plain(device.name): device for device in DEVICES}
_BY_NAME |= {alias: _BY_NAME[_plain(key)] for alias, key in _ALIASES.items()}


def _names() -> str:
    return ", ".join(device.key for device in DEVICES)


def get_device(value: Device | str | int) -> Device:
    """The GPU of that name, or one of which only the memory is known.

    Names ignore case, spaces, hyphens and the brand: "h100", "A100-40", "NVIDIA GeForce RTX 4090". Sizes carry a unit:
    "80GB" is 80 * 10**9 bytes, as the symbol says, and "80GiB" is 80 * 2**30. A card is sold in neither exactly (one of
    "80 GB" has 79.1 GiB, 85.0 GB), so its name says more than its size.

    Args:
        value: A name, a size, a number of bytes, or a Device, which is returned as it is.

    Raises:
        ValueError: an unknown name, a size without a unit, or a memory that no GPU has.
        TypeError: anything else.
    """
    if isinstance(value, Device):
        return value
    if isinstance(value, str):
        known = _BY_NAME.get(_plain(value))
        if known is not None:
            return known
        size = re.fullmatch(
            r"([+-]?[0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)([kmgt]?i?b)?", re.sub(r"[\s_]", "", value.lower())
        )
        if size is None or (size[2] is not None and size[2] not in _UNITS):
            raise ValueError(_unknown(value))
        if size[2] is None:
            raise ValueError(
                f"[get_device] a memory must carry its unit, got {value!r}; write '{value.strip()}GB' or "
                f"'{value.strip()}GiB'"
            )
        return _memory_only(float(size[1]) * _UNITS[size[2]], value)
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(
            f"[get_device] device must be a GPU's name, a size like '80GB' or a number of bytes, got {value!r}"
        )
    return _memory_only(value.__index__(), value)


def _memory_only(num_bytes: float, given: object) -> Device:
    smallest, largest = _MEMORY_RANGE
    if not smallest <= num_bytes <= largest:
        raise ValueError(
            f"[get_device] device memory must be from {smallest / 2**20:.0f} MiB to {largest / 2**40:.0f} TiB, got "
            f"{given!r}; a number is in bytes, and a size is written like '80GB'"
        )
    return Device(
        key=f"{num_bytes / 2**30:.4g}GiB",
        name=f"a GPU of {num_bytes / 2**30:.4g} GiB",
        memory_bytes=int(num_bytes),
        source="given",
    )


def _unknown(value: str) -> str:
    plain = _plain(value)
    sizes = [device.key for device in DEVICES if re.fullmatch(rf"{re.escape(plain)}\d+gb", _plain(device.key))]
    if sizes:
        return f"[get_device] device must say which memory it has, got {value!r}; write one of {', '.join(sizes)}"
    nearest = difflib.get_close_matches(plain, _BY_NAME, n=1, cutoff=0.5)
    hint = f"; nearest is {_BY_NAME[nearest[0]].key!r}" if nearest else ""
    return f"[get_device] device must be a known GPU or a size like '80GB', got {value!r}{hint}; known GPUs: {_names()}"
