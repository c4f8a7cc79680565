"""What a sample's scores depend on beside its image: other samples, what norms kept of them, chance."""

import math

import torch
from torch import Tensor, nn

from cnnprof import units
from cnnprof.errors import NotFiniteError
from cnnprof.inputs import first_floating
from cnnprof.records import Check, Status
from cnnprof.training.sanity.moves import NOT_FINITE, Moved
from cnnprof.training.sanity.trial import Trial, check, is_finite, listed, norms_in, numbers_in, trained

MIXED = 1e-6
"""Of the largest gradient to a sample's own input: rounding stays below."""
APART = 6
"""Samples that are looked at."""
NOT_HEARD = "no gradient of the output reaches an image"


def independent(trial: Trial, network: nn.Module) -> Check:
    """Ask whether a sample's scores depend on other samples of its batch, batch norm's statistics left out."""
    name = "samples independent"
    images = trial.batches[0][0][:APART]
    evaluating, training = (_mixing(network.train(training), images) for training in (False, True))
    if evaluating is None or training is None:
        return check(name, "skipped", None, NOT_HEARD)
    if evaluating > MIXED:
        hint = "look for a view or reshape that moves the batch, a softmax over dim 0, a mean over the batch"
        share = f": {units.short(evaluating)} of the gradient to itself" if math.isfinite(evaluating) else " alone"
        return check(name, "failed", evaluating, f"a sample's output depends on others{share}", hint)
    if training > MIXED:
        share = f": {units.short(training)}" if math.isfinite(training) else " alone"
        message = f"in training mode alone, a sample's output depends on others{share}"
        return check(name, "warning", training, message, "a norm over the batch of your own does that by design")
    norms = ", batch norm's statistics apart" if any(norms_in(network)) else ""
    return check(name, "ok", max(evaluating, training), f"no gradient across the batch{norms}")


def _mixing(network: nn.Module, images: Tensor) -> float | None:
    """Return the largest gradient to another sample's input, over that to its own; None where there is none at all."""
    _without_batch_statistics(network)
    own = across = 0.0
    for place in (0, len(images) // 2, len(images) - 1):
        leaf = images.clone().requires_grad_()
        outputs = [each for each in numbers_in(network(leaf)) if each.requires_grad]
        if not all(map(is_finite, outputs)):
            raise NotFiniteError(f"an output in {'training' if network.training else 'evaluation'} mode")
        felt = [each[place].float() for each in outputs if each.ndim and len(each) == len(images)]
        if not felt:
            return None
        weights = [torch.randn(each.shape, device=each.device) for each in felt]  # a softmax's sum has no gradient
        total = torch.stack([(each * weight).sum() for each, weight in zip(felt, weights, strict=True)]).sum()
        (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
        if gradient is None:
            return None
        sizes = gradient.float().flatten(1).abs().amax(1)
        own = max(own, float(sizes[place]))
        sizes[place] = 0
        across = max(across, float(sizes.max()))
    return across / own if own else (math.inf if across else None)


def _without_batch_statistics(network: nn.Module) -> None:
    """Have batch norms use running statistics: they mix samples by design."""
    for _, norm in norms_in(network):
        norm.eval()
        if norm.running_mean is None:  # it keeps none, and would use the batch's in any mode
            norm.running_mean = torch.zeros(norm.num_features, device=first_floating(network).device)
            norm.running_var = torch.ones_like(norm.running_mean)


def batch_norm(found: Moved) -> Check:
    """Ask whether batch norms keep statistics for evaluation, and whether these follow the data."""
    name = "batch norm"
    norms = dict(norms_in(found.network))
    if not norms or found.not_finite:
        return check(name, "skipped", None, NOT_FINITE if norms else "the network has none")
    keeping = [path for path, norm in norms.items() if norm.track_running_stats]
    still = [
        key
        for path in keeping
        for buffer in ("running_mean", "running_var", "num_batches_tracked")
        if (key := f"{path}.{buffer}".lstrip(".")) in found.still
    ]
    if still:
        following = len(keeping) - len({key.rpartition(".")[0] for key in still})
        message = f"of {units.plural(len(keeping), 'norm')} some statistics stay in training mode: {listed(still)}"
        return check(name, "warning", float(following), message, "are they frozen, or never called?")
    if len(keeping) < len(norms):
        message = (
            f"{len(norms) - len(keeping)} of {len(norms)} keep no running statistics: evaluation depends on the batch"
        )
        return check(name, "warning", float(len(keeping)), message, "is track_running_stats=False meant?")
    count = units.plural(len(keeping), "norm")
    return check(name, "ok", float(len(keeping)), f"running statistics of {count} follow the data")


ROUNDING = 1e-5
"""Of float32's 24 bits, what a few sums in another order may change."""


def deterministic(trial: Trial) -> Check:
    """Ask whether the same seed makes the same network and the same steps, and evaluation the same scores.

    Raises OutOfTimeError.
    """
    name = "deterministic"
    trial.check_time()
    (network, one), (_, other) = _few_steps(trial), _few_steps(trial)
    steps = f"the same steps under seed {trial.seed}, twice"
    apart = max(map(difference, one, other))
    if apart == 0:
        return _in_evaluation(trial, network) or check(name, "ok", 0.0, f"{steps}: the same to the last bit")
    differ = f"differ by {units.short(apart)} of their size" if math.isfinite(apart) else "differ in shape"
    message = f"{steps}: losses or parameters {differ}"
    if apart < ROUNDING:
        status: Status = "warning" if trial.device == "cpu" else "ok"
        return check(name, status, apart, f"{message}: rounding", "torch.use_deterministic_algorithms(True) names it")
    hint = "draw random numbers from torch alone: its seed does not reach random, NumPy or generators of your own"
    return check(name, "failed", apart, message, hint)


def _few_steps(trial: Trial) -> tuple[nn.Module, list[Tensor]]:
    """Return a network after some steps; parameters and buffers before and after them, and the losses."""
    network = trial.network()
    before = [each.detach().clone() for each in (*network.parameters(), *network.buffers())]
    optimizer = torch.optim.SGD(trained(network), 1e-3)
    few = trial.few(2 * APART, APART)
    losses = [torch.tensor(trial.step(network, optimizer, batch)[0]) for batch in few]
    return network, [*before, *(each.detach() for each in (*network.parameters(), *network.buffers())), *losses]


def _in_evaluation(trial: Trial, network: nn.Module) -> Check | None:
    """Warn where the same images get other scores when they are evaluated again."""
    images = trial.batches[0][0][:APART]
    network.eval()
    with torch.no_grad():
        one, other = (numbers_in(network(images)) for _ in range(2))
    apart = max(map(difference, one, other), default=0.0)
    if apart < ROUNDING:
        return None
    message = f"in evaluation mode the same images, twice, get scores that differ by {units.short(apart)} of their size"
    return check("deterministic", "warning", apart, message, "does a dropout get training=True, or forward draw noise?")


def difference(one: Tensor, other: Tensor) -> float:
    """Return how much two tensors differ, of the first one's size."""
    if one.shape != other.shape:
        return math.inf
    if torch.equal(one, other):
        return 0.0
    size = float(one.double().norm())
    norm = float((one.double() - other.double()).norm())
    return norm / size if size else norm
