"""From a network's raw scores to classes. It trains nothing and puts the network in no mode."""

import torch
from torch import Tensor, nn


class ArgMaxClassifier(nn.Module):
    """Wraps a network with raw scores (N, C) for C classes; a sample's class is the one that scores highest.

    Gradients are recorded and train or eval mode stays as it is: call it under torch.no_grad() where that is unwanted.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Score a batch (N, ...): raw scores (N, C)."""
        scores: Tensor = self.model(x)
        return scores

    def predict_proba(self, x: Tensor) -> Tensor:
        """Turn the scores of a batch (N, ...) into probabilities (N, C), the softmax over dim 1: each row sums to 1."""
        return torch.softmax(self(x), dim=1)

    def classify(self, x: Tensor) -> Tensor:
        """Name the class of each sample of a batch (N, ...): indices (N,), int64."""
        return torch.argmax(self(x), dim=1)
