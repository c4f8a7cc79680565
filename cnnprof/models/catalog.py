"""A MODEL string to a network that can be built again and again. Counts and times nothing.

[label=]name[(arguments)][@settings]

name: regular, resnet50, torchvision:resnet50, timm:resnet50d, package.module:callable, path/to/file.py:callable;
arguments: Python literals, [32] * 4, 2**5, dict(...), parsed and never run;
settings: bf16,channels-last,compile,b=64,threads=1
"""

import ast
import copy
import dataclasses
import difflib
import importlib
import inspect
import io
import itertools
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from cnnprof import module_tree, sources
from cnnprof.calls import literal, literals
from cnnprof.errors import NoSuchModelError, UsageError, first_line
from cnnprof.inputs import bytes_of, is_plain, view_in
from cnnprof.models import zoo
from cnnprof.models.cnn import CNN
from cnnprof.models.residual import ResidualBlock, ResidualBottleneckBlock, ResNet
from cnnprof.models.stacked import StackedNet
from cnnprof.records import OWN_TYPE, Own, Size

Built = tuple[nn.Module, Any]
"""A network and what it is fed: a size without the batch, inputs, or None where it does not say."""


@dataclass(frozen=True)
class Inputs:
    """Inputs that a callable brought along, batch included."""

    args: Any


@dataclass(frozen=True)
class NamedModel:
    """A network by its name.

    `module` is one instance to look at, on meta tensors where it can be; `build` makes a new one each time, with
    weights. What it is fed is a size without the batch, or inputs, or neither where it does not say.
    """

    name: str
    resolved: str
    module: nn.Module
    build: Callable[[], nn.Module]
    input_size: Size | None = None
    inputs: Any = None
    settings: Own = field(default_factory=Own)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What its builder takes by name, with the values that it was given."""
    made_for: Callable[[Size], Mapping[str, Any]] = lambda size: {}
    """Arguments with which its builder makes it for an input size; those that stand in its name are not among them."""


# The catalog ---------------------------------------------------------------------------------------------------------


def regular(
    channels: int = 256, kernel_size: int = 3, depth: int = 2, batchnorm: bool = False, skip: bool = True
) -> tuple[nn.Module, Size]:
    """Residual block of `depth` equal convolutions, on C x 56 x 56, where ResNet-50 has 256 channels."""
    block = ResidualBlock(channels, [channels] * depth, [kernel_size] * depth, batchnorm=batchnorm)
    return _with_skip(block, skip), (channels, 56, 56)


def bottleneck(
    channels: int = 256, reduction: int = 4, kernel_size: int = 3, batchnorm: bool = False, skip: bool = True
) -> tuple[nn.Module, Size]:
    """Residual bottleneck block: 1x1 down to channels // reduction, a convolution there, 1x1 back; on C x 56 x 56."""
    if not isinstance(reduction, int) or not 1 <= reduction <= channels:
        raise ValueError(
            f"reduction={reduction!r} leaves no channels of {channels}: give a number from 1 to {channels}"
        )
    block = ResidualBottleneckBlock(channels, [channels // reduction], [kernel_size], batchnorm=batchnorm)
    return _with_skip(block, skip), (channels, 56, 56)


def _with_skip(block: ResidualBlock, skip: bool) -> nn.Module:
    return block if skip else nn.Sequential(block.main_path, nn.ReLU())


def cnn(
    in_size: Size = (3, 32, 32),
    out_classes: int = 10,
    channels: Iterable[int] = (32,),
    pool_every: int = 1,
    hidden_dims: Iterable[int] = (100,),
    **options: Any,
) -> Built:
    """Plain CNN for images of 3x32x32 in 10 classes; takes CNN's options."""
    return CNN(in_size, out_classes, list(channels), pool_every, list(hidden_dims), **options), tuple(in_size)


def resnet(
    in_size: Size = (3, 32, 32),
    out_classes: int = 10,
    channels: Iterable[int] = (64,) * 6,
    pool_every: int = 2,
    hidden_dims: Iterable[int] = (100,),
    **options: Any,
) -> Built:
    """Three regular residual blocks of 64 channels for images of 3x32x32 in 10 classes; takes ResNet's options."""
    return ResNet(in_size, out_classes, list(channels), pool_every, list(hidden_dims), **options), tuple(in_size)


def resnet_bottleneck(
    in_size: Size = (3, 32, 32),
    out_classes: int = 10,
    channels: Iterable[int] = (64, 16, 64) * 3,
    pool_every: int = 3,
    hidden_dims: Iterable[int] = (100,),
    **options: Any,
) -> Built:
    """Like resnet, of bottlenecks 64-16-64; the first block is regular, as it widens 3 channels to 64."""
    return resnet(in_size, out_classes, channels, pool_every, hidden_dims, bottleneck=True, **options)


def stack(
    block: str = "regular",
    channels: int = 16,
    blocks: int = 9,
    in_size: tuple[int, int, int] = (3, 16, 16),
    out_classes: int = 10,
    **options: Any,
) -> Built:
    """Small network of nine `regular` or `bottleneck` blocks for images of 3x16x16; takes the block's options."""
    if block not in BLOCKS:
        raise ValueError(f"block={block!r}: {' or '.join(BLOCKS)} was expected")
    make = BLOCKS[block]
    return StackedNet(in_size, out_classes, channels, blocks, lambda width: make(width, **options)[0]), in_size


BLOCKS: Mapping[str, Callable[..., tuple[nn.Module, Size]]] = {"regular": regular, "bottleneck": bottleneck}
"""What keeps the shape of its input, and can be stacked."""

CATALOG: Mapping[str, Callable[..., Built]] = {
    "regular": regular,
    "bottleneck": bottleneck,
    "cnn": cnn,
    "resnet": resnet,
    "resnet-bottleneck": resnet_bottleneck,
    "stack": stack,
}

PRESETS: Mapping[str, tuple[str, ...]] = {"he2016": ("regular(channels=64)", "bottleneck(channels=256)")}
"""Pairs that are known from elsewhere. he2016: He, Zhang, Ren and Sun, "Deep residual learning for image recognition",
CVPR 2016, figure 5, both on 56 x 56: 73,728 and 69,632 weights, biases apart."""


def preset(name: str) -> tuple[str, ...]:
    """Return the MODEL strings of a preset. Raises UsageError, with the known ones, where there is none."""
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]


# From a string to a model --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    """A MODEL string in its parts."""

    text: str
    label: str | None
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    settings: Own = field(default_factory=Own)

    @property
    def model(self) -> str:
        """The text without the label."""
        return self.text.partition("=")[2].strip() if self.label else self.text


_GRAMMAR = re.compile(
    r"\s*(?:(?P<label>[^=()@:/\\]+)=)?(?P<name>[^()@=]+?)\s*(?P<call>\((?P<arguments>.*)\))?\s*(?P<settings>@.*)?", re.S
)


def parse(text: str) -> Spec:
    """Take a MODEL string apart. Raises UsageError where it is malformed."""
    match = _GRAMMAR.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text!r} is no MODEL: expected [label=]name[(arguments)][@settings], such as "
            "'bottleneck(channels=512)@bf16'"
        )
    args, kwargs = literals(text, match["arguments"] or "")
    own = _own(text, match["settings"][1:]) if match["settings"] else Own()
    return Spec(text.strip(), match["label"] and match["label"].strip(), match["name"].strip(), args, kwargs, own)


_DTYPES = {
    "float32": ("float32", "fp32"),
    "bfloat16": ("bfloat16", "bf16"),
    "float16": ("float16", "fp16", "half"),
    "float64": ("float64", "fp64", "double"),
    OWN_TYPE: (OWN_TYPE,),
}
DTYPES = tuple(_DTYPES)
_DTYPE_NAMES = {name: dtype for dtype, names in _DTYPES.items() for name in names}
_SWITCH = {"on": True, "off": False}
_FLAGS = ("amp", "channels-last", "compile")


def _whole(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def _sides(text: str) -> Size | int:
    lengths = tuple(map(_whole, text.split("x")))
    return lengths if len(lengths) > 1 else lengths[0]


_KEYS: Mapping[str, tuple[str, Callable[[str], Any], str]] = {
    "b": ("batch_size", _whole, "a whole number of at least 1"),
    "batch-size": ("batch_size", _whole, "a whole number of at least 1"),
    "threads": ("threads", _whole, "a whole number of at least 1"),
    "dtype": ("dtype", lambda text: _DTYPE_NAMES[text], f"one of {', '.join(_DTYPE_NAMES)}"),
    "input-size": ("input_size", _sides, "CxHxW or a side, such as 3x64x64 or 64"),
    **{flag: (flag.replace("-", "_"), lambda text: _SWITCH[text], "on or off") for flag in _FLAGS},
}
"""How a setting is written: its field, how its value is read, and what that is."""


def _own(text: str, settings: str) -> Own:
    """Read what stands after '@': bf16,channels-last,b=64."""
    own: dict[str, Any] = {}
    for part in (part.strip() for part in settings.split(",")):
        key, equals, value = part.partition("=")
        if not equals and part in _DTYPE_NAMES:
            key, value = "dtype", part
        elif not equals and part in _FLAGS:
            value = "on"
        if key not in _KEYS or not value:
            known = [*_DTYPE_NAMES, *_FLAGS, "b=N", "threads=N", "input-size=CxHxW"]
            raise UsageError(f"{text!r}: there is no setting {part!r}{nearest(part, known)}; known: {', '.join(known)}")
        name, read, expected = _KEYS[key]
        try:
            own[name] = read(value)
        except (ValueError, KeyError):
            raise UsageError(f"{text!r}: {key} is {value!r}; {expected} was expected") from None
    return Own(**own)


_IN_A_LABEL = str.maketrans("=()@:/\\", " []    ")


def varied(text: str, over: Mapping[str, Sequence[str]]) -> list[str]:
    """Write a MODEL string once for each combination of values, of settings or of arguments of its builder.

    Raises UsageError, with the nearest names, where it takes none of that name.
    """
    texts: list[str] = []
    for values in itertools.product(*over.values()):
        chosen = dict(zip(over, values, strict=True))
        arguments = {name: literal(value) for name, value in chosen.items() if name not in _KEYS}
        settings = [f"{name}={value}" for name, value in chosen.items() if name in _KEYS]
        if not texts:
            refuse_unknown(text, arguments)
        spec = parse(text)
        told = ", ".join([spec.label or "", *map("=".join, chosen.items())]).translate(_IN_A_LABEL)
        texts.append(_written(spec, told if spec.label else "", arguments, settings))
    return texts


def with_argument(text: str, name: str, value: object) -> str:
    """Write a MODEL string with another value of one argument of its builder."""
    spec = parse(text)
    return _written(spec, spec.label or "", {name: value}, [])


def _written(spec: Spec, label: str, arguments: Mapping[str, Any], settings: Sequence[str]) -> str:
    """Write a spec under a label, with arguments and settings beside its own or in their place."""
    named = (f"{name}={value!r}" for name, value in {**spec.kwargs, **arguments}.items())
    called = ", ".join([*map(repr, spec.args), *named])
    match = _GRAMMAR.fullmatch(spec.text)
    own = ",".join(filter(None, [((match and match["settings"]) or "")[1:].strip(), *settings]))
    return f"{label and f'{label}='}{spec.name}{called and f'({called})'}{own and f'@{own}'}"


def refuse_unknown(text: str, arguments: Mapping[str, Any]) -> None:
    """Raise UsageError, with the nearest names, where a builder takes no argument of that name.

    Other refusals are left to those who build it next.
    """
    spec = parse(text)
    try:
        resolve(_written(spec, "", arguments, []))
    except UsageError as refusal:
        unknown = next((name for name in arguments if f"unexpected keyword argument '{name}'" in str(refusal)), None)
        if unknown is not None:
            taken = resolve(text).arguments
            near = nearest(unknown, [*taken, *_KEYS]) or f"; it takes {', '.join(taken) or 'none'}"
            raise UsageError(f"{spec.name} takes no argument {unknown!r}, and there is no such setting{near}") from None


def resolve(text: str, input_size: Size | int | None = None) -> NamedModel:
    """Find the network that a MODEL string names, built for an input size where its builder takes one.

    A size of its own after '@' goes before `input_size`. Raises UsageError with the nearest names where nothing has
    that name.
    """
    spec = parse(text)
    found = _resolve(spec)
    size = sized(spec.settings.input_size or input_size, found.input_size)
    if size is not None and found.input_size is not None and size != found.input_size:
        arguments = found.made_for(size)
        found = _resolve(dataclasses.replace(spec, kwargs={**spec.kwargs, **arguments})) if arguments else found
    return dataclasses.replace(found, settings=spec.settings)


def sized(asked: Size | int | None, own: Size | None) -> Size | None:
    """Take the size that was asked for, else the model's own; a number alone is the side of a square image."""
    if isinstance(asked, int):
        return (*(own[:-2] if own else (3,)), asked, asked)
    return asked or own


def _resolve(spec: Spec) -> NamedModel:
    source, separator, rest = spec.name.rpartition(":")
    if not separator:
        return _resolve_bare(spec)
    if source in _LIBRARIES:
        return _LIBRARIES[source](spec, rest)
    return _from_callable(spec, source, rest)


def _resolve_bare(spec: Spec) -> NamedModel:
    if spec.name in CATALOG:
        return _from_catalog(spec)
    if spec.name in zoo.torchvision_models():
        return _from_torchvision(spec, spec.name)
    if spec.name.partition(".")[0] in zoo.timm_names():
        return _from_timm(spec, spec.name)
    _refuse_file(spec)
    known = [*CATALOG, *zoo.torchvision_models(), *zoo.timm_names()]
    raise UsageError(f"there is no model {spec.name!r}{nearest(spec.name, known)}; `cnnprof models` lists all")


_SAVED = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".onnx")


def _refuse_file(spec: Spec) -> None:
    """Say how a file is named as a model. Raises UsageError where a file's name was given."""
    path = Path(spec.name)
    if path.suffix == ".py" and not path.exists():
        raise NoSuchModelError(_about(spec, str(path), f"there is no file {path}"))
    code = spec.name if path.suffix == ".py" else f"{spec.name}.py"
    if Path(code).is_file():
        names = _callables(Path(code))
        example = f"{code}:{names[0] if names else 'callable'}"
        said = f"{code} is a file; name a callable of it, {example}; it has {_listed(names)}"
        raise UsageError(_about(spec, code, said))
    if path.suffix in _SAVED:
        raise UsageError(f"{spec.text} {_saved(path)}")
    if path.exists():
        kind = "folder" if path.is_dir() else "file"
        raise UsageError(f"{spec.text} is a {kind}; a model is a name, or file.py:callable")


def _callables(path: Path) -> list[str]:
    """List the classes and functions that stand in a file, which is not run."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError):
        return []
    named = [each.name for each in body if isinstance(each, ast.ClassDef | ast.FunctionDef)]
    return [name for name in named if not name.startswith("_")]


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most]) or 'no class and no function'}{more}"


def _about(spec: Spec, path: str, said: str) -> str:
    """Begin with what was asked, where the sentence itself does not name it."""
    return said if spec.text == path else f"{spec.text}: {said}"


def _saved(path: Path) -> str:
    """Describe a file of weights, and say how the network that they belong to is named."""
    if not path.exists():
        return "is not there, and would hold weights; a model is a name, or file.py:callable"
    if path.suffix == ".onnx":
        return "is an ONNX graph, which torch does not run; give the code that it was exported from: file.py:callable"
    if zipfile.is_zipfile(path) and any("/code/" in name for name in zipfile.ZipFile(path).namelist()):
        return f"is a TorchScript archive: \"torch.jit:load('{path}')\" loads it"
    return (
        "holds saved values, no code: name what makes their network, file.py:callable, which may load them; "
        f"a whole pickled module that you trust is \"torch:load('{path}', weights_only=False)\""
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known names are nearest: '; nearest: resnet50, resnet101'."""
    close = difflib.get_close_matches(name, dict.fromkeys(known), n=3, cutoff=0.6)
    return f"; nearest: {', '.join(close)}" if close else ""


def _from_catalog(spec: Spec) -> NamedModel:
    builder = CATALOG[spec.name]

    def made_for(network: nn.Module, size: Size) -> Mapping[str, Any]:
        if len(size) != 3:
            return {}
        return {"channels": size[0]} if spec.name in BLOCKS else {"in_size": size}

    return _named(spec, spec.name, builder, inspect.signature(builder), made_for)


def _from_torchvision(spec: Spec, name: str) -> NamedModel:
    if name not in zoo.torchvision_models():
        raise UsageError(f"torchvision has no model {name!r}{nearest(name, zoo.torchvision_models())}")
    try:
        from torchvision import models
    except (ImportError, RuntimeError, AttributeError) as error:  # what a torchvision of another torch raises
        raise UsageError(
            f"{spec.text}: torchvision does not import beside torch {torch.__version__}: "
            f"{first_line(error)}; install the torchvision that goes with it"
        ) from None
    _refuse_weights(spec)
    builder = models.get_model_builder(name)
    # Nothing is ever downloaded, and nothing warns about an initialisation that is to change.
    without_weights = {"weights": None, "weights_backbone": None, "init_weights": False}
    accepted = inspect.signature(builder).parameters
    given = {key: value for key, value in without_weights.items() if key in accepted}
    if name in _TAKES_INIT_WEIGHTS:
        given["init_weights"] = False

    def build(*args: Any, **kwargs: Any) -> Built:
        network = builder(*args, **{**given, **kwargs})
        # A vision transformer takes one size only, which need not be that of its default weights.
        side = getattr(network, "image_size", None)
        own = (3, side, side) if side else zoo.torchvision_models()[name].input_size
        frames = [kwargs["temporal_size"]] if "temporal_size" in kwargs else (own or ())[1:-2]
        sides = kwargs.get("input_size") or kwargs.get("spatial_size") or (own or ())[-2:]
        return network, own and (own[0], *frames, *sides)

    def made_for(network: nn.Module, size: Size) -> Mapping[str, Any]:
        taken = inspect.signature(type(network)).parameters
        if "image_size" in taken and size[-1] != size[-2]:
            raise UsageError(f"{spec.text}: it takes square images, {'x'.join(map(str, size))} was asked for")
        return {argument: part(size) for argument, part in _TORCHVISION_SIZES.items() if argument in taken}

    return _named(spec, f"torchvision:{name}", build, inspect.signature(builder), made_for)


_TORCHVISION_SIZES: Mapping[str, Callable[[Size], Any]] = {
    "image_size": lambda size: size[-1],
    "input_size": lambda size: size[-2:],
    "spatial_size": lambda size: size[-2:],
    "temporal_size": lambda size: size[-3],
}
"""Size arguments of its vision transformers, MaxVit and video transformers, from (C, H, W) or (C, T, H, W)."""


_TAKES_INIT_WEIGHTS = ("googlenet", "inception_v3")
"""Their builders pass it on to a class that warns where it is not given."""


def _from_timm(spec: Spec, name: str) -> NamedModel:
    known = zoo.timm_names()
    if not known:
        raise UsageError(f"{spec.text}: timm is not installed; pip install 'cnnprof[timm]'")
    if name.partition(".")[0] not in known:
        raise UsageError(f"timm has no model {name!r}{nearest(name, known)}")
    try:
        import timm
    except (ImportError, RuntimeError, AttributeError) as error:  # it imports torchvision, see above
        raise UsageError(f"{spec.text}: timm does not import: {first_line(error)}") from None

    _refuse_weights(spec)

    def build(**kwargs: Any) -> Built:
        network: Any = timm.create_model(name, pretrained=False, **kwargs)
        channels, *sides = network.pretrained_cfg["input_size"]
        side = kwargs.get("img_size") or sides
        return network, (kwargs.get("in_chans", channels), *(side if isinstance(side, Sequence) else (side, side)))

    def made_for(network: Any, size: Size) -> Mapping[str, Any]:
        config = network.pretrained_cfg
        is_bound = config.get("fixed_input_size") and type(network).__name__ != "CrossVit"  # that scales its images
        channels = {"in_chans": size[0]} if size[0] != config["input_size"][0] else {}
        return {**channels, **({"img_size": size[1:]} if is_bound else {})}

    return _named(spec, f"timm:{name}", build, inspect.signature(build), made_for)


def _refuse_weights(spec: Spec) -> None:
    asked = next((key for key in ("weights", "weights_backbone", "pretrained") if spec.kwargs.get(key)), None)
    if asked:
        raise UsageError(f"{spec.text}: {asked} would be downloaded, and changes no cost; leave it out")


_LIBRARIES = {"torchvision": _from_torchvision, "timm": _from_timm}


def _from_callable(spec: Spec, where: str, attribute: str) -> NamedModel:
    found = _imported(spec, where, attribute)
    if isinstance(found, nn.Module):
        return NamedModel(spec.label or spec.text, spec.name, found, lambda: copied(found))

    def build(*args: Any, **kwargs: Any) -> Built:
        result = found(*args, **kwargs)
        network, inputs = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
        if not isinstance(network, nn.Module):
            raise UsageError(
                f"{spec.text}: it returned {type(result).__name__}; an nn.Module or (module, inputs) was expected"
            )
        return network, None if inputs is None else Inputs(inputs)

    return _named(spec, spec.name, build, _signature(found), lambda network, size: {}, on_meta=False)


def copied(module: nn.Module) -> nn.Module:
    """Copy a module, tensors that deepcopy refuses included: sparse ones, and those kept from a forward pass.

    The latter lose their history. Tensors that lie in one storage still do.
    """
    if isinstance(module, torch.jit.ScriptModule):  # deepcopy would make its parameters results of a copy
        saved = io.BytesIO()
        torch.jit.save(module, saved)
        saved.seek(0)
        return torch.jit.load(saved)  # type: ignore[no-any-return, no-untyped-call]
    kept: list[torch.Tensor] = []
    for part in module_tree.modules(module):
        held = itertools.chain(vars(part).values(), part._parameters.values(), part._buffers.values())
        kept += (value for value in held if isinstance(value, torch.Tensor))
    refused = (tensor for tensor in kept if not tensor.is_leaf or tensor.layout is not torch.strided)
    copies = {id(tensor): tensor.detach().clone() for tensor in refused if not isinstance(tensor, nn.Parameter)}
    return copy.deepcopy(module, copies | dict(_copy_shared(kept)))


def _copy_shared(tensors: Iterable[torch.Tensor]) -> Iterator[tuple[int, torch.Tensor]]:
    """Copy storages in which several tensors lie; yield the tensors in the copies, by the identities of theirs."""
    sharing: dict[int, dict[int, torch.Tensor]] = {}
    for tensor in filter(is_plain, tensors):
        sharing.setdefault(tensor.untyped_storage()._cdata, {})[id(tensor)] = tensor
    for group in sharing.values():
        if len(group) > 1:
            first = next(iter(group.values()))
            whole = bytes_of(first, 0, first.untyped_storage().nbytes()).clone()
            for key, tensor in group.items():
                made = view_in(whole, tensor, 0)
                yield key, nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _signature(found: Callable[..., Any]) -> inspect.Signature:
    """Read a callable's parameters; where it does not tell them, as some of C do not, anything may be given."""
    try:
        return inspect.signature(found)
    except ValueError:
        return inspect.signature(lambda *args, **kwargs: None)


def load_callable(text: str) -> Callable[..., Any]:
    """Import file.py:name or package.module:name. Raises UsageError."""
    where, _, attribute = text.rpartition(":")
    if not where:
        raise UsageError(f"{text!r}: file.py:name or package.module:name was expected")
    found: Callable[..., Any] = _imported(Spec(text, None, text, (), {}), where, attribute)
    return found


def _imported(spec: Spec, where: str, attribute: str) -> Any:
    module = _import_file(spec, Path(where)) if where.endswith(".py") else _import_module(spec, where)
    found = getattr(module, attribute, None)
    if found is None:
        raise NoSuchModelError(f"{spec.text}: {where} has no {attribute!r}{nearest(attribute, vars(module))}")
    if not callable(found):
        raise UsageError(f"{spec.text}: {attribute!r} is {type(found).__name__}; a callable or nn.Module was expected")
    return found


def _import_file(spec: Spec, path: Path) -> ModuleType:
    if not path.is_file():
        raise NoSuchModelError(f"{spec.text}: there is no file {path}")
    _look_in(path.resolve().parent)
    name = f"cnnprof_user_{path.stem}"
    module: ModuleType = _run_users_code(spec, f"importing {path}", lambda: sources.imported(name, path))
    return module


def _import_module(spec: Spec, name: str) -> ModuleType:
    _look_in(Path.cwd())
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"{spec.text}: {name!r} is no package.module and no .py file")
    try:
        module: ModuleType = _run_users_code(spec, f"importing {name}", lambda: importlib.import_module(name))
    except UsageError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and cause.name and f"{name}.".startswith(f"{cause.name}."):
            raise NoSuchModelError(str(error)) from cause
        raise
    return module


def _look_in(directory: Path) -> None:
    """Let a user's file import its neighbours, as `python file.py` does."""
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


def _run_users_code(spec: Spec, doing: str, run: Callable[[], Any]) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):
            return run()
    except UsageError:
        raise
    except ValueError as error:  # a builder's own words on its arguments
        raise UsageError(f"{spec.text}: {first_line(error)}") from error
    except (Exception, SystemExit) as error:  # a user's code may raise anything; the text passes it on
        raise UsageError(f"{spec.text}: {doing} raised {type(error).__name__}: {first_line(error)}") from error


def _named(
    spec: Spec,
    resolved: str,
    builder: Callable[..., Built],
    signature: inspect.Signature,
    made_for: Callable[[nn.Module, Size], Mapping[str, Any]],
    on_meta: bool = True,
) -> NamedModel:
    """Check the arguments and build once, to learn what it is fed and to have an instance to look at."""
    try:
        signature.bind(*spec.args, **spec.kwargs)
    except TypeError as error:
        raise NoSuchModelError(f"{spec.text}: {error}; it takes {signature}") from None

    def built() -> Built:
        with torch.random.fork_rng(devices=[]):
            result: Built = _run_users_code(spec, "building it", lambda: builder(*spec.args, **spec.kwargs))
        return result

    module, fed = (on_meta and _built_on_meta(spec, builder)) or built()
    written = {*spec.kwargs, *signature.bind_partial(*spec.args).arguments}
    found = NamedModel(
        spec.label or spec.text,
        resolved,
        module,
        lambda: built()[0],
        arguments=_given(spec, signature, module),
        made_for=lambda size: {name: part for name, part in made_for(module, size).items() if name not in written},
    )
    if isinstance(fed, Inputs):
        return dataclasses.replace(found, inputs=fed.args)
    return dataclasses.replace(found, input_size=fed)


def _given(spec: Spec, signature: inspect.Signature, module: nn.Module) -> Mapping[str, Any]:
    """Return a builder's arguments by name; those that it passes on are its network's."""
    given = signature.bind(*spec.args, **spec.kwargs)
    given.apply_defaults()
    passed_on = next((name for name, each in signature.parameters.items() if each.kind is each.VAR_KEYWORD), None)
    if passed_on is None:
        return given.arguments
    theirs = {name: each.default for name, each in _signature(type(module)).parameters.items()}
    own = {name: value for name, value in given.arguments.items() if name != passed_on}
    return {**theirs, **own, **given.arguments[passed_on]}


def _built_on_meta(spec: Spec, builder: Callable[..., Built]) -> Built | None:
    """Build without weights; None where the builder needs values (regnet rounds widths with tensors)."""
    try:
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):
            return builder(*spec.args, **spec.kwargs)
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        return None  # building it again with weights works, or says what is wrong
