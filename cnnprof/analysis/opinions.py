"""A second opinion: another counter runs, and its difference from us is itemised by layer and cause.

The items come from that tool's rules, applied in our own trace; what they leave over is unexplained.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from cnnprof.analysis import conventions
from cnnprof.analysis.operators import Effect
from cnnprof.analysis.shadow import Shadow, on_meta, shared_or_copied, undisturbed
from cnnprof.analysis.trace import Trace
from cnnprof.errors import UsageError, said
from cnnprof.inputs import Inputs, common_type, first_floating
from cnnprof.records import Gap, Opinion

Tool = Literal["fvcore", "torch"]
TOOLS: tuple[Tool, ...] = get_args(Tool)


def opinion(tool: Tool, trace: Trace, module: nn.Module, inputs: Inputs) -> Opinion:
    """Run a tool on a network with weights, and itemise its difference from our trace, in the tool's unit.

    `trace` is of a forward pass and has its calls. fvcore counts a multiply-accumulate as one, torch's FlopCounterMode
    as two. A tool that fails has no number.
    """
    asked = _TOOLS[tool]
    gaps: Counter[tuple[str, str]] = Counter()
    for call, used in trace.used():
        ours = asked.unit * call.effect.macs
        left_out = asked.skips_unused and not used
        theirs = 0 if left_out else asked.rule(call.effect)
        if theirs != ours:
            cause = "a result that nothing uses" if left_out else _cause(call.effect.operator, theirs)
            gaps[call.path, cause] += theirs - ours
    items = tuple(Gap(path, cause, amount) for (path, cause), amount in reversed(gaps.items()) if amount)
    whole = asked.unit * sum(call.effect.macs for call in trace.calls)
    try:
        return Opinion(tool, whole, asked.count(module, inputs), items)
    except Exception as error:  # noqa: BLE001  # a tool may raise anything on a network that it cannot read
        return Opinion(tool, whole, None, items, failure=said(error))


def _fvcore(module: nn.Module, inputs: Inputs) -> int:
    """Read the graph that torch.jit.trace makes of one real forward pass, in eval mode without gradients."""
    if inputs.kwargs:
        raise UsageError("it takes no keyword arguments")
    with undisturbed("no_grad"):
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(Shadow(module, shared_or_copied).root, _real(module, inputs).args)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        return int(analysis.total())


def _flop_counter_mode(module: nn.Module, inputs: Inputs) -> int:
    """Watch one forward pass with torch.utils.flop_counter: on meta tensors, which show what fused kernels hide."""
    from torch.utils.flop_counter import FlopCounterMode

    def counted(root: nn.Module, fed: Inputs) -> int:
        with undisturbed("no_grad"), FlopCounterMode(display=False) as counter:
            root(*fed.args, **fed.kwargs)
        return int(counter.get_total_flops())

    real = _real(module, inputs)
    try:
        return counted(Shadow(module, on_meta).root, real.to("meta"))
    except RuntimeError:  # what the network does depends on values
        return counted(Shadow(module, shared_or_copied).root, real)


def _real(module: nn.Module, inputs: Inputs) -> Inputs:
    return inputs.with_values().cloned().to(first_floating(module).device, common_type(module))


@dataclass(frozen=True)
class _Tool:
    unit: int
    """What a multiply-accumulate counts there."""
    rule: Callable[[Effect], int]
    """What an operator counts there."""
    skips_unused: bool
    """It leaves out operators whose results nothing uses."""
    count: Callable[[nn.Module, Inputs], int]
    """Asks the tool itself."""


_TOOLS: Mapping[Tool, _Tool] = {
    "fvcore": _Tool(1, lambda effect: effect.fvcore_flops, True, _fvcore),
    "torch": _Tool(2, lambda effect: 2 * effect.torch_macs, False, _flop_counter_mode),
}


def _cause(operator: str, theirs: int) -> str:
    name = operator.removeprefix("aten::")
    known = next((cause for part, cause in conventions.CAUSES.items() if part in name), name)
    return known if theirs else f"{known} it does not see"
