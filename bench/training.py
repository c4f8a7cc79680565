"""What the trainer adds to a bare loop of PyTorch, on one thread: prints a table of networks.

The loop does what training needs and no more: no accuracy, no look at the loss. The two train one network in turn, in
rounds of random order; each session is a new network.
"""

import random
import time

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from cnnprof import CNN, ClassifierTrainer, statistics, units

BATCH, SESSIONS, ROUND_S = 64, 5, 0.5
ROUNDS = 6
"""Of each session; the first warms up."""

NETWORKS = {
    "the course's CNN": lambda: CNN((3, 32, 32), 10, channels=[32], pool_every=1, hidden_dims=[100]),
    "resnet18": lambda: resnet18(num_classes=10),
    "one linear layer": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)),
}


def bare(model: nn.Module, loss_fn: nn.Module, optimizer: torch.optim.Optimizer, batches: list[list[Tensor]]) -> None:
    """Train on every batch."""
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        loss = loss_fn(model(images), labels)
        loss.backward()
        optimizer.step()


def session(build) -> list[tuple[float, float]]:
    """Return seconds a step of the loop and of the trainer, round by round."""
    model, loss_fn = build(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    trainer = ClassifierTrainer(model, loss_fn, optimizer)
    images, labels = torch.randn(4 * BATCH, 3, 32, 32), torch.randint(10, (4 * BATCH,))
    few = list(DataLoader(TensorDataset(images, labels), BATCH))
    runs = {
        "bare": lambda batches: bare(model, loss_fn, optimizer, batches),
        "trainer": lambda batches: trainer.train_epoch(batches, verbose=False),
    }
    started = time.perf_counter()
    runs["bare"](few)
    batches = few * max(1, round(ROUND_S / (time.perf_counter() - started)))
    rounds = []
    for _ in range(ROUNDS):
        took = {}
        for name in random.sample(list(runs), len(runs)):
            started = time.perf_counter()
            runs[name](batches)
            took[name] = (time.perf_counter() - started) / len(batches)
        rounds.append((took["bare"], took["trainer"]))
    return rounds[1:]


def row(name: str, build) -> str:
    """One line of the table."""
    sessions = [session(build) for _ in range(SESSIONS)]
    own, plain = (
        BATCH / statistics.center([[each[index] for each in rounds] for rounds in sessions]) for index in (1, 0)
    )
    speeds = [[loop / trainer for loop, trainer in rounds] for rounds in sessions]
    low, high = statistics.interval(speeds)
    rates = " | ".join(units.integer(round(rate)) for rate in (plain, own))
    return f"| {name} | {rates} | {statistics.center(speeds):.3f} [{low:.3f}, {high:.3f}] |"


def main() -> None:
    """Print the table."""
    random.seed(1)
    torch.manual_seed(1)
    torch.set_num_threads(1)
    print("| network | bare loop, img/s | `train_epoch`, img/s | its share, 95 % interval |")
    print("|---|---:|---:|---:|")
    for name, build in NETWORKS.items():
        print(row(name, build), flush=True)


if __name__ == "__main__":
    main()
