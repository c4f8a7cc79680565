"""Do the layers' times add up to the latency, and do any exceed their roof? Prints a table of networks."""

import torch
from torch import nn

import cnnprof
from cnnprof import units
from cnnprof.profiling import Model

NETWORKS: dict[str, tuple[Model, int]] = {
    "resnet50": ("resnet50", 8),
    "mobilenet_v3_large": ("mobilenet_v3_large", 8),
    "resnet18": ("resnet18", 8),
    "regular": ("regular", 8),
    "bottleneck": ("bottleneck", 8),
    "a product of 3,072 x 3,072": (nn.Linear(3072, 3072, bias=False), 3072),
}


def row(name: str, model: Model, batch: int) -> str:
    """Profile the forward pass and the training step of one network."""
    size = (3072,) if isinstance(model, nn.Linear) else None
    shares = []
    for mode in ("inference", "training"):
        run = cnnprof.profile(model, size, batch, modes=(mode,), time_s=6, roofline=mode == "inference")
        latency = run.latency[mode]
        assert latency
        assert run.time
        assert run.time.remainder_s is not None
        shares.append(f"{units.seconds(latency.median_s)} | {100 * run.time.remainder_s / latency.median_s:+.1f} %")
        if mode == "inference":
            roofs = [roof for roof in run.profiles[0].roofline if not roof.transformed]
    nearest = max(roofs, key=lambda roof: roof.share)
    return f"| {name} | {batch} | {' | '.join(shares)} | {nearest.share:.0%} | {nearest.path or nearest.kind} |"


def main() -> None:
    """Print the table."""
    torch.manual_seed(1)
    print("| network | batch | forward | remainder | training step | remainder | nearest to its roof | layer |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    for name, (model, batch) in NETWORKS.items():
        print(row(name, model, batch), flush=True)


if __name__ == "__main__":
    main()
