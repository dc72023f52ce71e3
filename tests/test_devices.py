"""GPUs by name, by size, by bytes, and what is said of those that are none."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from maxcrops.planning.devices import DEVICES, Device, get_device


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("h100", "h100"),
        ("H100 SXM", "h100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("H100 PCIe", "h100-pcie"),
        ("h200", "h200"),
        ("B200", "b200"),
        ("A100-40", "a100-40gb"),
        ("a100-80gb", "a100-80gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("A100 80GB PCIe", "a100-80gb"),
        ("rtx 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 3090", "rtx-3090"),
        ("RTX_5090", "rtx-5090"),
        ("l4", "l4"),
        ("L40S", "l40s"),
        ("A10", "a10"),
        ("a10g", "a10g"),
        ("Tesla T4", "t4"),
        ("V100-32", "v100-32gb"),
        ("Tesla V100-SXM2-16GB", "v100-16gb"),
    ],
)
def test_names(name: str, key: str) -> None:
    assert get_device(name).key == key


def test_every_device_is_found_by_its_key_and_name_and_says_its_source() -> None:
    assert len({device.key for device in DEVICES}) == len(DEVICES)
    for device in DEVICES:
        assert get_device(device.key) is device
        assert get_device(device.name) is device
        assert device.is_compute_known
        assert device.source
        assert pickle.loads(pickle.dumps(device)) == device
        assert len({device, replace(device)}) == 1


def test_numbers_are_of_the_right_size() -> None:
    for device in DEVICES:
        nominal = float(device.name.split()[-1].removesuffix("GB"))
        # What a driver reports: never more than the nominal size read as GiB, at most 10% less (GDDR6 with ECC).
        assert 0.9 * nominal * 2**30 < device.memory_bytes < nominal * 2**30
        assert device.bandwidth_bytes_per_second is not None
        # Operations per byte at which a GPU turns from memory to compute: tens to hundreds.
        assert 60 < device.dense_flops["float16"] / device.bandwidth_bytes_per_second < 450
        assert device.dense_flops["float32"] <= device.dense_flops["float16"] / 1.9
        assert set(device.dense_flops) == {"bfloat16", "float16", "float32"}
    # No bfloat16 tensor cores before compute capability 8.0.
    t4 = get_device("t4")
    assert t4.dense_flops["bfloat16"] == t4.dense_flops["float32"]


@pytest.mark.parametrize(
    ("size", "num_bytes"),
    [
        ("80GB", 80 * 10**9),
        ("80 gb", 80 * 10**9),
        ("79.2GiB", int(79.2 * 2**30)),
        ("40960 MiB", 40960 * 2**20),
        ("1e11B", 10**11),
        ("0.5TB", 5 * 10**11),
        (24 * 2**30, 24 * 2**30),
        (np.int64(10**10), 10**10),
    ],
)
def test_sizes(size: str | int, num_bytes: int) -> None:
    device = get_device(size)
    assert device.memory_bytes == num_bytes
    assert not device.is_compute_known
    assert not device.dense_flops
    assert device.assumption is None


def test_a_device_is_returned_as_it_is() -> None:
    device = Device(key="mine", name="mine", memory_bytes=10**9)
    assert get_device(device) is device


def test_assumed_rates_are_named() -> None:
    device = get_device("60GB").with_compute_of("a100-80gb")
    assert device.memory_bytes == 60 * 10**9
    assert device.compute_capability == (8, 0)
    assert device.assumption == "rates and kernels of an NVIDIA A100 80GB"
    with pytest.raises(ValueError, match="must name a GPU"):
        device.with_compute_of("80GB")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("h1000", "nearest is 'h100'"),
        ("rtx4080", "nearest is 'rtx-"),
        ("mi300x", "must be a known GPU"),
        ("", "must be a known GPU"),
        ("a100", "which memory it has, got 'a100'; write one of a100-40gb, a100-80gb"),
        ("V100", "v100-16gb, v100-32gb"),
        ("80", "must carry its unit, got '80'; write '80GB'"),
        ("80Gb/s", "must be a known GPU"),
        ("0GB", "must be from 256 MiB"),
        ("-80GB", "must be from 256 MiB"),
        ("80PB", "must be a known GPU"),
        ("80000GB", "to 4 TiB"),
        (0, "must be from 256 MiB"),
        (-1, "must be from 256 MiB"),
        (80, "got 80; a number is in bytes"),
        (10**15, "to 4 TiB"),
    ],
)
def test_values_that_are_no_device(value: str | int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_device(value)


@pytest.mark.parametrize("value", [None, 80.0, True, b"h100", [80]])
def test_types_that_are_no_device(value: object) -> None:
    with pytest.raises(TypeError, match="name, a size like '80GB' or a number of bytes"):
        get_device(value)  # type: ignore[arg-type]
