"""What devices can do at most."""

from dataclasses import dataclass

from multisense.config import ConfigError, suggest


@dataclass(frozen=True)
class Device:
    """Peaks of dense matrix products, without sparsity, and memory as PyTorch finds it."""

    bf16_tflops: float
    """Also of fp16."""
    fp32_tflops: float
    """Without TF32, which torch leaves off."""
    memory_gib: float
    """A GPU sold as 80 GB shows PyTorch a little less than 80 GiB."""
    source: str

    def peak(self, mixed_precision: str) -> float:
        """FLOP/s at `train.mixed_precision`."""
        return 1e12 * (self.fp32_tflops if mixed_precision == "no" else self.bf16_tflops)


DEVICES = {
    # data sheets give twice the dense rate, "with sparsity", for H100, H200 and L4
    "h100": Device(989.4, 66.9, 79.2, "NVIDIA's H100 data sheet, SXM"),
    "h200": Device(989.4, 66.9, 139.8, "NVIDIA's H200 data sheet, SXM"),
    "a100": Device(312.0, 19.5, 79.2, "NVIDIA's A100 data sheet, 80 GB"),
    "rtx4090": Device(165.2, 82.6, 23.6, "NVIDIA's Ada white paper, FP32 accumulation"),
    "l4": Device(121.0, 30.3, 22.0, "NVIDIA's L4 data sheet"),
    "cpu": Device(0.0013, 0.14, 16.0, "measured on two cores of an AMD EPYC, Zen 3, which has no bf16 of its own"),
}


def device(name: str) -> Device:
    """Raises ConfigError for a device that is not in the table."""
    if name not in DEVICES:
        raise ConfigError(f"--gpu '{name}': not in the table of devices; {suggest(name, DEVICES)}")
    return DEVICES[name]
