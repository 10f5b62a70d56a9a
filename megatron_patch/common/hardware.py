"""What a device could do at most, for the model FLOPs utilization (MFU)."""

from __future__ import annotations

DENSE_BF16_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "H800": 989.4,
    "GH200": 989.4,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "L20": 119.5,
    "A10": 125.0,
}
"""TFLOP/s of dense bf16 tensor cores from NVIDIA's data sheets, by a part of the device's name, special names first."""


def peak_tflops(device_name: str) -> float | None:
    """Dense bf16 peak of a device in TFLOP/s; None if its name is not in the table."""
    words = device_name.replace("-", " ")
    for name, peak in DENSE_BF16_TFLOPS.items():
        if f" {name} " in f" {words} ":
            return peak
    return None
