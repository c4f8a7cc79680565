"""What the trainer adds to a bare loop of PyTorch, on one thread.

The loop does what training needs and no more: no accuracy, no look at the loss. What is saved as times are epochs of
the trainer alone; its share of the loop's speed is of the two in turn, in rounds of random order, in sessions of a new
network each.
"""

import random
import time

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from cnnprof import CNN, ClassifierTrainer, statistics

BATCH, SESSIONS, ROUND_S = 64, 5, 0.5
ROUNDS = 6
"""Of each session; the first warms up."""

NETWORKS = {
    "the course's CNN": lambda: CNN((3, 32, 32), 10, channels=[32], pool_every=1, hidden_dims=[100]),
    "resnet18": lambda: resnet18(num_classes=10),
    "one linear layer": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)),
}


class Pair:
    """A new network, and the two that train it."""

    def __init__(self, build):
        self.model, self.loss_fn = build(), nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.trainer = ClassifierTrainer(self.model, self.loss_fn, self.optimizer)

    def bare(self, batches):
        self.model.train()
        for images, labels in batches:
            self.optimizer.zero_grad()
            loss = self.loss_fn(self.model(images), labels)
            loss.backward()
            self.optimizer.step()

    def trained(self, batches):
        self.trainer.train_epoch(batches, verbose=False)


def seconds(run, batches):
    """Return what a batch takes."""
    started = time.perf_counter()
    run(batches)
    return (time.perf_counter() - started) / len(batches)


def session(pair, few):
    """Return seconds a batch of the loop and of the trainer, round by round."""
    batches = few * max(1, round(ROUND_S / seconds(pair.bare, few) / len(few)))
    rounds = []
    for _ in range(ROUNDS):
        runs = [pair.bare, pair.trained]
        took = {run: seconds(run, batches) for run in random.sample(runs, len(runs))}
        rounds.append([took[run] for run in runs])
    return rounds[1:]


@pytest.mark.parametrize("network", [pytest.param(name, marks=pytest.mark.benchmark(group=name)) for name in NETWORKS])
def test_training(benchmark, one_thread, network):
    random.seed(1)
    torch.manual_seed(1)
    images, labels = torch.randn(2 * BATCH, 3, 32, 32), torch.randint(10, (2 * BATCH,))
    few = list(DataLoader(TensorDataset(images, labels), BATCH))
    sessions = [session(Pair(NETWORKS[network]), few) for _ in range(SESSIONS)]
    shares = [[loop / trainer for loop, trainer in rounds] for rounds in sessions]
    loop_s, trainer_s = (statistics.center([[each[side] for each in rounds] for rounds in sessions]) for side in (0, 1))
    benchmark.extra_info |= {
        "loop_images_per_s": BATCH / loop_s,
        "trainer_images_per_s": BATCH / trainer_s,
        "share": statistics.center(shares),
        "share_ci95": statistics.interval(shares),
    }
    benchmark(Pair(NETWORKS[network]).trained, few)
