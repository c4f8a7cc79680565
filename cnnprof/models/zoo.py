"""The networks that torchvision and timm offer by name, read from their installed source files.

Importing either package imports torch, which takes seconds; a list of names should not. So this room parses the
files and runs none of them: what is not written there as a literal is None. It lists networks and builds none.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

Size = tuple[int, int, int] | tuple[int, int, int, int]
Expressions = dict[str, ast.expr]
Values = dict[object, object]

# torchvision counted `_ops` on a square image of noise behind the preset of the weights, on 16 of them for a video
# (get_ops in its test/common_extended_utils.py). The presets for detection and flow leave its size.
_IMAGE_SIDE_PX = 512
_VIDEO_FRAMES = 16

_TIMM_ENTRYPOINT = re.compile(r"^@register_model\b.*\n(?:@.*\n)*def (\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Listed:
    """One network that can be named, and what its default weights publish about it; None is unknown.

    `input_size` is (C, H, W), or (C, T, H, W) for T frames of video. `gmacs` are the 1e9 multiply-accumulates of one
    such input, published to three decimals: of a detector with the proposals its trained weights found in noise.
    """

    name: str
    source: str
    params: int | None = None
    input_size: Size | None = None
    gmacs: float | None = None


CATALOG = (
    Listed("regular", "cnnprof", 1_180_160, (256, 56, 56), 3.699),
    Listed("bottleneck", "cnnprof", 70_016, (256, 56, 56), 0.218),
    Listed("cnn", "cnnprof", 821_206, (3, 32, 32), 0.002),
    Listed("resnet", "cnnprof", 290_134, (3, 32, 32), 0.063),
    Listed("resnet-bottleneck", "cnnprof", 132_902, (3, 32, 32), 0.022),
    Listed("stack", "cnnprof", 42_378, (3, 16, 16), 0.005),
)
"""cnnprof's own networks, as their builders' defaults make them: listing them builds nothing."""


@cache
def torchvision_models() -> dict[str, Listed]:
    """List what `torchvision.models.list_models()` names, sorted; nothing where torchvision is not installed."""
    networks = [network for text in _sources("torchvision") for network in _networks(ast.parse(text))]
    return {network.name: network for network in sorted(networks, key=lambda network: network.name)}


@cache
def timm_names() -> tuple[str, ...]:
    """List what `timm.list_models()` names, sorted; nothing where timm is not installed."""
    return tuple(sorted(name for text in _sources("timm") for name in _TIMM_ENTRYPOINT.findall(text)))


def _sources(package: str) -> Iterator[str]:
    """Read the files of a package that register networks. To find a top-level package imports nothing."""
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in Path(folder, "models").rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if "@register_model" in text:
                yield text


def _networks(file: ast.Module) -> Iterator[Listed]:
    """Pair each function that a file of torchvision registers with the weights it loads by default."""
    constants = _assigned(file.body)
    weights = {node.name: _default(node, constants) for node in file.body if isinstance(node, ast.ClassDef)}
    for node in file.body:
        if isinstance(node, ast.FunctionDef) and (name := _registered_name(node)):
            yield _listed(name, next((weights[each] for each in _weights_names(node) if each in weights), {}))


def _listed(name: str, weights: Values) -> Listed:
    meta = weights.get("meta")
    params, gmacs = (meta.get("num_params"), meta.get("_ops")) if isinstance(meta, dict) else (None, None)
    return Listed(
        name=name,
        source="torchvision",
        params=params if isinstance(params, int) else None,
        input_size=_input_size(weights.get("transforms")),
        gmacs=gmacs if isinstance(gmacs, int | float) else None,
    )


def _input_size(transforms: object) -> Size | None:
    """Say what size the preset of the weights hands to the network. Optical flow takes two images: None."""
    match transforms:
        case {0: "ImageClassification", "crop_size": int(side)} | {0: "SemanticSegmentation", "resize_size": int(side)}:
            return (3, side, side)
        case {0: "VideoClassification", "crop_size": (int(height), int(width))}:
            return (3, _VIDEO_FRAMES, height, width)
        case "ObjectDetection":
            return (3, _IMAGE_SIDE_PX, _IMAGE_SIDE_PX)
    return None


def _registered_name(builder: ast.FunctionDef) -> str | None:
    """Find the name in `@register_model(name=...)`, which is the function's own where none is given."""
    for decorator in builder.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "register_model":
            match _value(decorator, {}):
                case {"name": str(name)} | {0: str(name)}:
                    return name
            return builder.name
    return None


def _weights_names(builder: ast.FunctionDef) -> list[str]:
    """Name the classes in the annotation of `weights`, of which `get_model_weights` takes the first one, too."""
    annotations = [each.annotation for each in builder.args.kwonlyargs if each.arg == "weights" and each.annotation]
    return [node.id for each in annotations for node in ast.walk(each) if isinstance(node, ast.Name)]


def _default(weights: ast.ClassDef, constants: Expressions) -> Values:
    """Take the arguments of the `Weights(...)` that is the member DEFAULT: what a user loads who names no other."""
    default = _value(ast.Name("DEFAULT"), constants | _assigned(weights.body))
    return default if isinstance(default, dict) else {}


def _assigned(body: list[ast.stmt]) -> Expressions:
    pairs = [(node.targets[0], node.value) for node in body if isinstance(node, ast.Assign)]
    return {target.id: value for target, value in pairs if isinstance(target, ast.Name)}


def _value(node: ast.expr, names: Expressions) -> object:
    """Work out a literal, a dict, a call as a dict of its arguments, a name as what it stands for here or as itself."""
    match node:
        case ast.Name(id=name) if name in names:
            return _value(names[name], {each: names[each] for each in names if each != name})  # X = X ends, too
        case ast.Name(id=name):
            return name
        case ast.Call(args=args, keywords=keywords):
            return _merged([*enumerate(args), *((each.arg, each.value) for each in keywords)], names)
        case ast.Dict(keys=keys, values=values):
            return _merged([(getattr(key, "value", key), each) for key, each in zip(keys, values, strict=True)], names)
    try:
        return ast.literal_eval(node)
    except (TypeError, ValueError):
        return None


def _merged(pairs: Iterable[tuple[object, ast.expr]], names: Expressions) -> Values:
    """Follow `{**COMMON, "key": value}` from left to right; the key of `**` is None."""
    merged: Values = {}
    for key, node in pairs:
        value = _value(node, names)
        merged |= value if key is None and isinstance(value, dict) else {key: value}
    return merged
