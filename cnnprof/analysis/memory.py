"""The memory of a step, followed on tensors without storage: what stands when, and what it is for.

The step runs as it would, with autograd, optimizer and all, on fake tensors of the device that is asked about, so that
views, in-place operators, saved tensors, checkpoints and early releases need no model of their own: a storage lives as
long as anything holds it. What a kernel takes for itself while it runs cannot be seen so; calls of kernels that do are
listed, for whoever can tell.
"""

import gc
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode

from cnnprof import module_tree, optimizers, steps
from cnnprof.analysis import as_real, attention, higher_order, packed
from cnnprof.analysis.operators import has_kernel, is_composite, writes_in_place
from cnnprof.analysis.shadow import Shadow, undisturbed
from cnnprof.analysis.trace import unlogged
from cnnprof.analysis.values import Values
from cnnprof.errors import UsageError, first_line
from cnnprof.gradients import GradientMode, check_operator, strictest
from cnnprof.inputs import (
    SPARSE,
    Inputs,
    byte_range,
    components,
    is_plain,
    is_wrapper,
    rebuild,
    tensors_in,
    torch_name,
    unregistered,
    view_in,
)
from cnnprof.records import (
    CATEGORIES,
    INPUT,
    Category,
    HeldTensor,
    Kernel,
    Laid,
    LayerMemory,
    Mode,
    Moment,
    Phase,
    Predicted,
    Settings,
    Size,
)

Array = Any


HiddenBytes = Callable[[Sequence[Kernel]], Mapping[Kernel, int | None]]
"""Tells what kernels take beyond their outputs while they run; None where that is not known."""
AtMost = Callable[[Kernel, int], float]
"""Bounds what a kernel takes beyond outputs of so many bytes, without trying it."""


Listed = Callable[[Any, Sequence[Any]], bool]
"""Says whether a call of an operator with its arguments is kept, to be asked about."""


def nothing_listed(operator: Any, arguments: Sequence[Any]) -> bool:
    """Keep no call."""
    return False


def nothing_hidden(kernels: Sequence[Kernel]) -> Mapping[Kernel, int | None]:
    """Take every kernel for one that needs no more than its outputs."""
    return dict.fromkeys(kernels, 0)


@dataclass(slots=True)
class Block:
    """A storage, from the operator that made it until nothing holds it any more."""

    size: int
    shape: Size
    dtype: str
    path: str
    operator: str
    start: int
    end: int | None = None
    category: Category = "temporaries"


@dataclass
class Course:
    """A step as it went: its storages, and its operators with where they ran."""

    mode: Mode
    blocks: list[Block]
    paths: list[str]
    operators: list[str]
    backward: list[bool]
    kernels: dict[int, Kernel]
    kinds: Mapping[str, str]
    not_seen: frozenset[str] = frozenset()
    fed_backward: int = 0
    """Bytes of what the model is fed that the backward pass reads again."""


class Unpredictable(Exception):  # noqa: N818  # a turn of the road: it can be measured
    """The step needs values, or an operator that has no shape rule."""


def followed(
    module: nn.Module,
    inputs: Inputs,
    mode: Mode,
    settings: Settings,
    loss: steps.Loss | None = None,
    make_optimizer: optimizers.Maker | None = None,
    listed: Listed = nothing_listed,
) -> Course:
    """Follow one step of a network that has done others before it.

    Calls of the operators that are `listed` are kept, for whoever can tell what their kernels take for themselves.
    Raises Unpredictable where the step needs values, and UsageError where the network refuses its input.
    """
    follow = partial(_followed, module, inputs, mode, settings, loss, make_optimizer, listed)
    return follow("enable_grad") if mode == "training" else strictest(follow, UsageError)


def _followed(
    module: nn.Module,
    inputs: Inputs,
    mode: Mode,
    settings: Settings,
    loss: steps.Loss | None,
    make_optimizer: optimizers.Maker | None,
    listed: Listed,
    gradients: GradientMode,
) -> Course:
    on_cuda = torch.device(settings.device).type == "cuda"
    pretending = on_cuda and not torch.cuda.is_available()
    if pretending:
        settings = replace(settings, device="cpu")
    _of_one_holder()  # before there are fake tensors of another mode
    watch = _Watch(listed, gradients, as_real.ROUNDED_TO, "CUDA") if on_cuda else _Watch(listed, gradients)
    with (
        FakeTensorMode(allow_non_fake_inputs=True) as fake,
        unlogged(FakeTensorMode.__module__),
        undisturbed("enable_grad"),
        _uncollected(),
        as_real.AsReal(pretending, watch.not_seen.add),
        as_real.allow_fast_path(),
    ):
        if any(map(packed.of_module, module_tree.modules(module))):  # its keys compare arguments: these refuse
            fake.cache_enabled = False
        stand_in = _StandIn(settings, fake, watch.values)
        try:
            shadow = Shadow(module, stand_in, training=mode == "training")
            step = steps.made(shadow.root, stand_in.for_inputs(inputs), mode, settings, loss, make_optimizer, gradients)
        except UsageError:
            raise
        except (Exception, SystemExit) as error:  # torch, copy and the network's own classes may raise anything
            raise Unpredictable(f"it holds what cannot be stood in for: {first_line(error)}") from error
        if mode == "training" and shadow.unregistered:  # nothing sets their gradients to zero
            with _told_apart(watch):
                step.run()
                step.release()
        shadow.announce(watch.stack)
        watch.stand(step)
        if step.optimizer is not None:
            step.optimizer.register_step_pre_hook(watch.enter_optimizer)
        with _told_apart(watch), watch:
            step.run()  # what it returns is let go of, and with it the graph that is behind it
        if on_cuda and as_real.PRODUCTS & set(watch.operators):
            watch.keep(as_real.WORKSPACE_BYTES, "cuBLAS's workspace")
        course = watch.course(mode, step, {path: type(part).__name__ for path, part in shadow.clones.items()})
    return course


class _StandIn:
    """Makes fake tensors as the step has them: on its device, in its types and layout, in memory shared as it is."""

    def __init__(self, settings: Settings, mode: FakeTensorMode, values: Values) -> None:
        self._dtype, self._device = steps.asked_type(settings), torch.device(settings.device)
        self._channels_last, self._mode, self._values = settings.channels_last, mode, values
        self._storages: dict[int, torch.Tensor] = {}
        """By storage, a tensor that lies in it from its start on."""

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        made = rebuild(tensor, self._made)
        self._values.learn(made, tensor)
        return made.requires_grad_() if tensor.requires_grad and tensor.is_leaf else made

    def for_inputs(self, inputs: Inputs) -> Inputs:
        """Allocate for inputs only the memory that they span: they may be a few images of a large set."""

        def place(like: torch.Tensor, first: int, last: int) -> torch.Tensor:
            return torch.empty(last - first, dtype=torch.uint8, device=self._device)

        made = inputs.relocate(place, self, shares=self._dtype is None and not self._channels_last)
        for each, tensor in zip(made.tensors(), inputs.tensors(), strict=True):
            self._values.learn(each, tensor)
        return made

    def _made(self, tensor: torch.Tensor) -> torch.Tensor:
        dtype = self._dtype if self._dtype and tensor.is_floating_point() else tensor.dtype
        if tensor.layout in SPARSE:
            return self._sparse(tensor, dtype)
        if tensor.layout is not torch.strided or tensor.is_nested:
            kind = "a nested tensor" if tensor.is_nested else f"a {type(tensor).__name__}"
            raise NotImplementedError(f"{kind} of {tensor.layout}")
        if self._channels_last and tensor.ndim == 4:
            return torch.empty(tensor.shape, dtype=dtype, device=self._device, memory_format=torch.channels_last)
        if dtype is tensor.dtype and is_plain(tensor):
            return self._in_its_storage(tensor)
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device=self._device)

    def _in_its_storage(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata in self._storages:
            return view_in(self._storages[storage._cdata], tensor, 0)
        if byte_range(tensor) == (0, storage.nbytes()):
            made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=self._device)
            self._storages[storage._cdata] = made
            return made
        self._storages[storage._cdata] = torch.empty(storage.nbytes(), dtype=torch.uint8, device=self._device)
        return view_in(self._storages[storage._cdata], tensor, 0)

    def _sparse(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Keep the number of its values, which a fake tensor made of a real one loses."""
        with unset_fake_temporarily():
            *indices, values = (part.detach().to("meta") for part in components(tensor))
            values = values.to(dtype)
            if tensor.layout is torch.sparse_coo:
                is_coalesced = tensor.is_coalesced()
                meta = torch.sparse_coo_tensor(indices[0], values, tensor.shape, is_coalesced=is_coalesced)
            else:
                meta = torch.sparse_compressed_tensor(
                    indices[0], indices[1], values, tensor.shape, layout=tensor.layout, device="meta"
                )
            return FakeTensor(self._mode, meta, self._device)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Leave cycles of references standing: searching takes a fifth of the time, and when it finds any is chance."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def _told_apart(watch: "_Watch") -> Iterator[None]:
    """Tell a step that needs values from one that the network refuses."""
    try:
        yield
    except (UsageError, Unpredictable):
        raise
    except _READ_VALUES as error:
        raise Unpredictable(f"{watch.where()}: {first_line(error)}") from error
    except (Exception, SystemExit) as error:  # a network may raise anything
        if isinstance(error, RuntimeError | TypeError) and any(word in str(error) for word in _OF_SHAPES_ALONE):
            raise Unpredictable(f"{watch.where()}: {first_line(error)}") from error
        raise UsageError(f"{watch.where()} {watch.doing}: {first_line(error)}") from error


_READ_VALUES = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
    NotImplementedError,
)
_OF_SHAPES_ALONE = ("data-dependent", "FakeTensor", "meta", "tensor subclass", "storage")
"""What torch says where a tensor without values is asked for some."""

# Watching ------------------------------------------------------------------------------------------------------------


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operator, and every storage from its making until its end."""

    def __init__(self, listed: Listed, gradients: GradientMode, rounded_to: int = 1, backend: str = "CPU") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._gradients = gradients
        self._rounded_to = rounded_to
        self._backend = backend
        self._listed = listed
        self._blocks: list[Block] = []
        self._living: dict[int, Block] = {}
        self._ends: dict[int, Any] = {}
        self._paths: list[str] = []
        self.operators: list[str] = []
        self._backward: list[bool] = []
        self._kernels: dict[int, Kernel] = {}
        self.stack = [""]
        self._updating = False
        """Whether the optimizer steps: thousands of its operators only write into what stands."""
        self.not_seen: set[str] = set()
        """What takes memory that is not followed."""
        self._read_again: set[int] = set()
        """Storages that operators of the backward pass took."""
        self._made_by: dict[int, str] = {}
        """By autograd's number of a forward operator: the module that called it."""
        self.values = Values()
        if backend == "CUDA":
            self._decompositions = attention.decompositions(as_real.attention)
        else:
            self._decompositions = {**attention.decompositions(), **as_real.DECOMPOSITIONS}

    supports_higher_order_operators = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, HigherOrderOperator):
            if self._gradients == "enable_grad":  # its backward pass is a graph that torch makes at run time
                higher_order.refuse(func)
            with self:
                return higher_order.run_for_memory(func, args, self.not_seen.add)
        if func.namespace == "prim":  # no operator: a fake tensor is asked for its device
            return func(*args, **(kwargs or {}))
        if any(map(is_wrapper, types)):
            return NotImplemented  # its class makes operators on the tensors inside, which come here next
        check_operator(self._gradients)
        if self._updating and writes_in_place(func) and _holds_no_values(args[0]):
            return None if isinstance(args[0], list | tuple) else args[0]  # it takes no memory
        if is_composite(func) and not has_kernel(func, self._backend):  # inference mode shows them whole
            with self:
                if func is torch.ops.aten.linear.default and as_real.adds_bias(*args):
                    return as_real.linear(*args)
                # In C++, as it runs: some have a decomposition in Python, too, which works otherwise.
                return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **(kwargs or {}))
        if func is torch.ops.aten.add.Tensor and _is_summed_in_place(args):
            return args[0]
        if func in attention.OF_MASKS:
            return self._of_mask(func, args)
        if func in self._decompositions:
            with self:
                return self._decompositions[func](*args, **(kwargs or {}))
        node = torch._C._current_autograd_node()
        backward = node is not None and not torch.is_grad_enabled()  # a block that is recomputed runs forward
        if backward and func in as_real.IN_PLACE and self._is_filled(args[0]):
            func = as_real.IN_PLACE[func]
        output = self._made(func, args, kwargs or {})
        if backward:
            path = self._made_by.get(node._sequence_nr(), "")
            self._read_again.update(_storages(args))
        else:
            path = self.stack[-1]
            self._made_by.setdefault(torch._C._autograd._get_sequence_nr() - 1, path)
        name = func._schema.name
        if name not in _SHOW_ALL and any(map(_is_sparse, args)):
            self.not_seen.add(f"{name.removeprefix('aten::')} of sparse tensors")
        before = len(self._blocks)
        for tensor in output if isinstance(output, tuple | list) else (output,):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor, name, path)
        if name in as_real.BY_VALUES and torch.is_grad_enabled() and not backward:
            self.not_seen.add(f"the backward pass of {name.removeprefix('aten::')}, which values decide,")
        if self._listed(func, args) and not self._updating:
            named = _laid(tuple((kwargs or {}).items()))
            made = sum(block.size for block in self._blocks[before:])
            self._kernels[len(self._paths)] = Kernel(name, _laid(tuple(args)), named, func._overloadname, made)
        self._paths.append(path)
        self.operators.append(name)
        self._backward.append(backward)
        return output

    def _made(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator on shapes; on values, where those are known and shapes alone do not tell."""
        try:
            output = as_real.asked_for(func, args, _called(func, args, kwargs))
        except _READ_VALUES:
            output = self.values.answer(func, args, kwargs)
            if output is NotImplemented:
                raise
        if not self._updating:
            self.values.follow(func, args, kwargs, output)
        return output

    def _is_filled(self, tensor: torch.Tensor) -> bool:
        """Say whether the last operator made a tensor of zeros, for this one to fill."""
        block = next(self._blocks_of([tensor]), None)
        return block is not None and block.start == len(self._paths) - 1 and "zeros" in block.operator

    def _of_mask(self, func: Any, args: Any) -> Any:
        """Say whether sequences can be a nested tensor, or make them one, as the values of a mask tell."""
        found = self.values.read(attention.OF_MASKS[func], args[1])
        if found is NotImplemented:
            raise DataDependentOutputException(func)
        with self:
            return found if isinstance(found, bool) else attention.nest(args[0], found)

    def _note(self, tensor: torch.Tensor, operator: str, path: str) -> None:
        if tensor.layout is not torch.strided and operator:  # how many values it has is not known
            self.not_seen.add(f"tensors that are {torch_name(tensor.layout)}")
            return
        for part in components(tensor):
            self._note_storage(part, operator, path)

    def _note_storage(self, tensor: torch.Tensor, operator: str, path: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._living:
            dtype = torch_name(tensor.dtype)
            size = -(-storage.nbytes() // self._rounded_to) * self._rounded_to
            block = Block(size, tuple(tensor.shape), dtype, path, operator, len(self._paths))
            self._living[key] = block
            self._ends[key] = weakref.ref(storage, partial(self._ended, key))
            self._blocks.append(block)

    def _ended(self, key: int, _: Any) -> None:
        self._living.pop(key).end = len(self._paths)
        del self._ends[key]

    def enter_optimizer(self, *_: Any) -> None:
        """Note that what runs from now on is the optimizer's."""
        self._updating = True

    def keep(self, size: int, what: str) -> None:
        """Note memory that a library keeps for itself from its first call on."""
        self._blocks.append(Block(size, (size,), "uint8", "", what, 0))

    def where(self) -> str:
        """Name the innermost module that was entered and not left, or what comes after the model."""
        if self._updating:
            return "the optimizer's step"
        if len(self.stack) == 1 and self._paths:
            return "the loss or the backward pass"
        return f"layer {self.stack[-1]!r}" if self.stack[-1] else "the model"

    @property
    def doing(self) -> str:
        """Say what raised."""
        return "refused its input" if len(self.stack) > 1 or not self._paths else "raised"

    def stand(self, step: steps.Step) -> None:
        """Note what stands before the step, each with the module that holds it."""
        own: dict[int, str] = {}
        for path, part in module_tree.named_modules(step.module):
            for tensor in (*part._parameters.values(), *part._buffers.values()):
                if tensor is not None:
                    own.setdefault(id(tensor), path)
        for tensor in step.standing():
            self._note(tensor, "", own.get(id(tensor), ""))
        for tensor in _gradients(unregistered(step.module)):
            self._note(tensor, "", "")
        for block in self._blocks:
            block.start = 0

    def course(self, mode: Mode, step: steps.Step, kinds: Mapping[str, str]) -> Course:
        """Say what every storage was for, once the step is done."""
        for category, tensors in (
            ("inputs", step.standing()),
            ("optimizer_state", tensors_in(dict(step.optimizer.state)) if step.optimizer else ()),
            ("buffers", module_tree.buffers(step.module)),
            ("gradients", _gradients(step.standing())),
            ("buffers", chain(unregistered(step.module), _gradients(unregistered(step.module)))),
            ("parameters", module_tree.parameters(step.module)),
        ):
            for block in self._blocks_of(tensors):
                block.category = category  # type: ignore[assignment]
        for block in self._blocks:
            kept = block.end is None
            if kept and block.category == "temporaries":
                block.category = "buffers"  # a cache of the model's own, or a library's
            if kept and block.category != "gradients":
                block.start = 0  # a step before this one had made it
        _activations(self._blocks, self._backward)
        fed = (block for key, block in self._living.items() if block.category == "inputs" and key in self._read_again)
        return Course(
            mode,
            self._blocks,
            self._paths,
            self.operators,
            self._backward,
            self._kernels,
            kinds,
            frozenset(self.not_seen),
            sum(block.size for block in fed),
        )

    def _blocks_of(self, tensors: Iterable[torch.Tensor]) -> Iterator[Block]:
        for part in chain.from_iterable(map(components, tensors)):
            if part.untyped_storage()._cdata in self._living:
                yield self._living[part.untyped_storage()._cdata]


def _called(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call an operator. Raises Unpredictable where one that is not torch's own has no rule for shapes alone."""
    try:
        return func(*args, **kwargs)
    except RuntimeError as error:
        if func.namespace in _OF_TORCH:
            raise
        raise Unpredictable(f"operator {func._schema.name} has no rule for shapes alone") from error


_OF_TORCH = ("aten", "prims")


def _is_sparse(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is not torch.strided


_PARTS = (*chain.from_iterable(SPARSE.values()), "indices")
_SHOW_ALL = frozenset(f"aten::{name}" for name in (*_PARTS, "is_coalesced", "t", "detach"))
"""Operators on sparse tensors that take nothing for themselves; others convert indices, or work on dense copies."""


def _holds_no_values(written: Any) -> bool:
    """Say whether tensors are shapes alone: small ones that count steps have values, which are read."""
    tensors = written if isinstance(written, list | tuple) else (written,)
    return all(getattr(tensor, "constant", None) is None for tensor in tensors)


# Where gradients of two branches meet, autograd writes into the first if nothing else holds it, though not into one of
# a class of its own, as fake tensors are (InputBuffer::accumulate, torch/csrc/autograd/input_buffer.cpp).


def _is_summed_in_place(args: Sequence[Any]) -> bool:
    """Say whether real tensors would be added in place here."""
    if torch.is_grad_enabled() or torch._C._current_autograd_node() is None or not isinstance(args[1], torch.Tensor):
        return False
    return _is_dense(args[0]) and _references(args) == _of_one_holder()


def _is_dense(tensor: torch.Tensor) -> bool:
    """Say whether its elements lie without gaps and none lies on another."""
    reach = 1 + sum((length - 1) * step for length, step in zip(tensor.shape, tensor.stride(), strict=True))
    return reach == tensor.numel()


def _references(args: Sequence[Any]) -> tuple[int, int, int]:
    """Count who holds the first tensor: in C++, in Python, and its storage."""
    tensor = args[0]
    return tensor._use_count(), sys.getrefcount(tensor), torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


@cache
def _of_one_holder() -> tuple[int, int, int]:
    """Count the references to a gradient that autograd alone holds, as this torch and this Python have them."""

    class Looking(TorchDispatchMode):  # type: ignore[no-untyped-call]
        found = (0, 0, 0)

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.add.Tensor and torch._C._current_autograd_node() is not None:
                self.found = _references(args)
            return func(*args, **(kwargs or {}))

    with FakeTensorMode(), torch.enable_grad():
        middle = torch.ones(2, requires_grad=True) * 2
        loss = (middle * torch.sigmoid(middle)).sum()
        with (looking := Looking()):  # type: ignore[no-untyped-call]
            loss.backward()  # type: ignore[no-untyped-call]
    return looking.found


def _gradients(tensors: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    return (tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None)


def _storages(args: Any) -> Iterator[int]:
    return (
        arg.untyped_storage()._cdata for arg in args if isinstance(arg, torch.Tensor) and arg.layout is torch.strided
    )


def _activations(blocks: Sequence[Block], backward: Sequence[bool]) -> None:
    """Tell what a forward pass left for the backward one: made by the one, alive when the next of the other begins."""
    after = len(backward)
    begins = [after] * (after + 1)
    for index in range(after - 1, -1, -1):
        after = index if backward[index] else after
        begins[index] = after
    for block in blocks:
        made_forward = block.category == "temporaries" and block.start < len(backward) and not backward[block.start]
        if made_forward and begins[block.start] < len(backward) and (block.end or len(backward)) > begins[block.start]:
            block.category = "activations"


def _laid(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided:
            return None
        dtype = torch_name(value.dtype)
        return Laid(tuple(value.shape), tuple(value.stride()), dtype, value.element_size())
    return tuple(map(_laid, value)) if isinstance(value, list | tuple) else value


# From a course to a prediction ---------------------------------------------------------------------------------------

MOMENTS = 400
"""As many are kept of a curve: the highest of each stretch of operators."""


def predicted(course: Course, hidden_bytes: HiddenBytes = nothing_hidden, at_most: AtMost | None = None) -> Predicted:
    """Add up what stands at every operator, by category, and look at the highest point.

    Where bounds are given, and kernels are many, only those are asked about that can decide the peak.
    """
    length = len(course.paths) or 1
    curves = _curves(course, length)
    kinds = list(dict.fromkeys(course.kernels.values()))
    if at_most is not None and len(kinds) > FEW:
        kinds = _deciding(course, curves.sum(axis=0), at_most)
    extra = hidden_bytes(kinds)
    hidden = np.zeros(length, dtype=np.int64)
    for index, kernel in course.kernels.items():
        hidden[index] = extra.get(kernel) or 0
    unknown = {kernel.operator.removeprefix("aten::") for kernel, size in extra.items() if size is None}
    curves[_PLACE["temporaries"]] += hidden
    total = curves.sum(axis=0)
    peak = int(total.argmax())
    standing = [block for block in course.blocks if block.start <= peak and (block.end is None or block.end > peak)]
    return Predicted(
        peak_bytes=int(total[peak]),
        at_peak={category: int(curves[place, peak]) for place, category in enumerate(CATEGORIES)},
        peak_path=course.paths[peak] if course.paths else "",
        peak_operator=course.operators[peak].removeprefix("aten::") if course.operators else "",
        peak_phase=_phase(course, peak),
        activations_bytes=sum(block.size for block in course.blocks if block.category == "activations"),
        largest=tuple(map(_held, sorted(standing, key=lambda block: -block.size)[:LARGEST])),
        layers=_layers(course, standing),
        timeline=tuple(_moments(course, curves, total, hidden)),
        not_known=tuple(sorted(unknown | course.not_seen)),
        not_drawn=len(set(course.kernels.values()).difference(kinds)),
    )


LARGEST = 10
FEW = 32
"""So many kinds of kernel are tried in less than a second."""
_PLACE = {category: place for place, category in enumerate(CATEGORIES)}


def _curves(course: Course, length: int) -> Array:
    """Return bytes (category, operator)."""
    changes = np.zeros((len(CATEGORIES), length + 1), dtype=np.int64)
    for block in course.blocks:
        place = _PLACE[block.category]
        changes[place, min(block.start, length)] += block.size
        if block.end is not None:
            changes[place, min(block.end, length)] -= block.size
    return changes.cumsum(axis=1)[:, :length]


def _deciding(course: Course, standing: Array, at_most: AtMost) -> list[Kernel]:
    """Return the kernels that may lift the curve to its highest point, each kind once."""
    made: Counter[int] = Counter()
    for block in course.blocks:
        made[block.start] += block.size
    highest = standing.max()
    found = (
        kernel for index, kernel in course.kernels.items() if standing[index] + at_most(kernel, made[index]) >= highest
    )
    return list(dict.fromkeys(found))


def _phase(course: Course, index: int) -> Phase:
    if course.mode == "inference" or not any(course.backward):
        return "forward"
    last = len(course.backward) - 1 - course.backward[::-1].index(True)
    if index > last:
        return "optimizer"
    return "backward" if course.backward[index] or index > course.backward.index(True) else "forward"


def _held(block: Block) -> HeldTensor:
    return HeldTensor(
        block.size, block.shape, block.dtype, block.category, block.path, block.operator.removeprefix("aten::")
    )


def _layers(course: Course, standing: Sequence[Block]) -> tuple[LayerMemory, ...]:
    """Sum up by module what it holds, what it keeps for the backward pass, and what of it stands at the peak."""
    rows = {path: [0, 0, 0] for path in course.kinds}
    at_peak = set(map(id, standing))
    for block in course.blocks:
        row = rows.setdefault(block.path, [0, 0, 0])
        row[0] += block.size if block.category == "parameters" else 0
        row[1] += block.size if block.category == "activations" else 0
        row[2] += block.size if id(block) in at_peak else 0
    found = [LayerMemory(path, course.kinds.get(path, ""), *sizes) for path, sizes in rows.items() if any(sizes)]
    fed = course.fed_backward
    return (*([LayerMemory(INPUT, "", 0, fed, fed)] if fed else []), *found)


def _moments(course: Course, curves: Array, total: Array, hidden: Array) -> Iterator[Moment]:
    """Yield the highest operator of each stretch of what is taken and released, hidden memory too."""
    length = len(total)
    churned = 2 * hidden
    for block in course.blocks:
        churned[min(block.start, length - 1)] += block.size if block.start else 0
        if block.end is not None:
            churned[min(block.end, length - 1)] += block.size
    churn = churned.cumsum()
    for stretch in stretches(churn.tolist()):
        index = max(stretch, key=lambda each: total[each])
        sizes = tuple(int(size) for size in curves[:, index])
        path = course.paths[index] if course.paths else ""
        yield Moment(index, int(churn[index]), _phase(course, index), path, sizes)


def stretches(churn: Sequence[int]) -> Iterator[range]:
    """Cut what was taken and released so far into MOMENTS stretches of equal size, those without any entry left out."""
    width = max(1, churn[-1] // MOMENTS + 1)
    start = 0
    for index in range(1, len(churn) + 1):
        if index == len(churn) or churn[index] // width != churn[start] // width:
            yield range(start, index)
            start = index
