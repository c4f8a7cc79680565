"""`verify` on a student's file: right, with one rule broken at a time, and with what files do that they should not."""

import itertools
import json
import time
import types
from pathlib import Path

import pytest
import torch
from waiting import alive, wait_for

import cnnprof
from cnnprof import sources, store
from cnnprof.errors import UsageError
from cnnprof.records import Check, Verification
from cnnprof.verification import checks, misses, process
from cnnprof.verification.facts import agree, told

STUDENT = (Path(__file__).parent / "data" / "student.py").read_text()


def planted(*changes):
    """Run the student's file with pieces of its text replaced, each of which stands in it once."""
    text = STUDENT
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
        text = text.replace(old, new)
    module = types.ModuleType("student")
    exec(compile(text, "student.py", "exec"), vars(module))
    return module


def found(module, *kinds):
    before = {}
    return [check for kind in kinds for check in checks.checks_of(kind, getattr(module, kind), before)]


def explained(module, kind):
    """Look at more networks than the course's alone: the course's would take longer."""
    looks = [checks.Look.at(probe, getattr(module, kind), checks.OURS[kind]) for probe in checks.PROBES[kind]]
    return checks.explained(kind, looks, {})


def failed(module, *kinds):
    return [check for check in found(module, *kinds) if check.status == "failed"]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_right_answer_passes():
    every = found(planted(), "CNN", "ResidualBlock", "ResidualBottleneckBlock", "ArgMaxClassifier")
    assert {check.status for check in every} == {"ok"}
    assert [check.name for check in every][:3] == ["CNN cnn_00", "CNN cnn_01", "CNN cnn_02"]
    assert all(check.value < 1e-5 for check in every[:3])  # the course asks for 1e-3
    assert "2,039,850 parameters in 14 tensors" in every[0].message


LAST = "        layers.append(nn.Linear(n_in, self.out_classes))\n"
OWN_ACTIVATION = "layers.append(ACTIVATIONS[self.activation_type](**self.activation_params))\n"
COUNT = (
    "            self.eval()\n            with torch.no_grad():\n                x = torch.zeros(1, *self.in_size)\n"
)
RESTORE = "            self.train(training)\n            torch.set_rng_state(state)\n"
CONV = "layers.append(nn.Conv2d(in_channels, self.channels[i], **self.conv_params))\n"
ACT = "            layers.append(activation(**self.activation_params))\n"
POOL = "                layers.append(POOLINGS[self.pooling_type](**self.pooling_params))\n"
EACH = "            if (i + 1) % P == 0:\n"
FEATURES = "        self.feature_extractor = self._make_feature_extractor()\n"
MLP = "        self.mlp = self._make_mlp()\n"

CNN_MISSES = {
    "a pool after the leftover": (
        (EACH, "            if (i + 1) % P == 0 or i == N - 1:\n"),
        "a pool after the leftover convolutions",
    ),
    "leftovers dropped": (
        ("for i in range(N)", "for i in range(N // P * P)"),
        "leftover convolutions that are dropped",
    ),
    "drawn count": (
        (COUNT, "            if True:\n                x = torch.rand(1, *self.in_size)\n"),
        (RESTORE, "            pass\n"),
        "a feature count found by a pass over random numbers, which draws them",
    ),
    "default parameters in the MLP": (
        (OWN_ACTIVATION, "layers.append(ACTIVATIONS[self.activation_type]())\n"),
        "an activation with default parameters in the MLP",
    ),
    "activation after the last Linear": (
        (LAST, LAST + "        layers.append(ACTIVATIONS[self.activation_type](**self.activation_params))\n"),
        "an activation after the last Linear",
    ),
    "softmax at the end": (
        ("out = self.mlp(features)", "out = torch.softmax(self.mlp(features), 1)"),
        "a softmax after the last Linear",
    ),
    "a pool after every convolution": ((EACH, "            if True:\n"), "a pool after every convolution"),
    "a pool one too early": (
        (EACH, "            if i % P == 0:\n"),
        "a pool after the first convolution of a group, not the last",
    ),
    "a pool before the activation": (
        (ACT + EACH + POOL, EACH + POOL + ACT),
        "pools before the activation",
    ),
    "options of convolutions": (
        (CONV, "layers.append(nn.Conv2d(in_channels, self.channels[i], self.conv_params['kernel_size']))\n"),
        "convolutions that get their kernel_size alone",
    ),
    "options of activations": (
        (ACT, "            layers.append(activation())\n"),
        (OWN_ACTIVATION, "layers.append(ACTIVATIONS[self.activation_type]())\n"),
        "activation_params that are used nowhere",
    ),
    "a flattening of the batch": (
        ("features.reshape(features.shape[0], -1)", "features.flatten(0)"),
        "a flattening that takes the batch in, too",
    ),
    "hidden layers in reversed order": (
        ("for dim in self.hidden_dims:", "for dim in reversed(self.hidden_dims):"),
        "hidden_dims in reversed order",
    ),
    "left in eval mode": (
        ("            self.train(training)\n", ""),
        "a network left in eval mode when it is built",
    ),
}


def cases(misses, listed):
    """All of them; those that the course's own list of misses does not name are slow ones, for their number."""
    return [
        pytest.param(changes, what, id=name, marks=[] if number < listed else [pytest.mark.slow])
        for number, (name, (*changes, what)) in enumerate(misses.items())
    ]


@pytest.mark.parametrize(("changes", "what"), cases(CNN_MISSES, listed=5))
def test_a_miss_of_the_cnn_is_named(changes, what):
    cause = explained(planted(*changes), "CNN")
    assert (cause.text, cause.drawn) == (what, "")
    assert cause.hint


def test_an_activation_after_the_last_linear_gives_the_published_difference():
    (first, *_) = failed(planted(*CNN_MISSES["activation after the last Linear"][:-1]), "CNN")
    assert first.name == "CNN cnn_00"
    assert first.value == pytest.approx(0.6536653637886047, abs=2e-6)  # the expected numbers have six decimals
    assert first.message == "the output differs by 0.653666: exactly as with an activation after the last Linear"


BUILT = "        self.main_path = nn.Sequential(*main_layers)\n"
SHORTCUT = "shortcut_layers.append(nn.Conv2d(in_channels, channels[-1], kernel_size=1, bias=False))"
DIFFER = "        if in_channels != channels[-1]:\n"
LOOP = "        for i, (c, k) in enumerate(zip(channels, kernel_sizes)):\n"
DROPOUT = "                if dropout > 0:\n                    main_layers.append(nn.Dropout2d(dropout))\n"
NORM = "                if batchnorm:\n                    main_layers.append(nn.BatchNorm2d(c))\n"
ACTIVATION = "                main_layers.append(act(**activation_params))\n"
END = "        out = torch.relu(out)\n"

BLOCK_MISSES = {
    "shortcut first": (
        (DIFFER + "            " + SHORTCUT + "\n", ""),
        (LOOP, DIFFER + "            " + SHORTCUT + "\n" + LOOP),
        "a shortcut built before the main path",
    ),
    "no bias": (("padding=k // 2)", "padding=k // 2, bias=False)"), "convolutions without bias in blocks"),
    "plain dropout": (("nn.Dropout2d(dropout)", "nn.Dropout(dropout)"), "plain Dropout in place of Dropout2d"),
    "batch norm first": (
        (DROPOUT + NORM, NORM + DROPOUT),
        "the order batch norm, dropout, activation after a block's convolutions",
    ),
    "activation before batch norm": (
        (NORM + ACTIVATION, ACTIVATION + NORM),
        "the order dropout, activation, batch norm after a block's convolutions",
    ),
    "all after the last convolution": (
        ("if i < len(channels) - 1:", "if True:"),
        "dropout, batch norm, activation after a block's last convolution",
    ),
    "shortcut with bias": (("kernel_size=1, bias=False", "kernel_size=1"), "a shortcut convolution with bias"),
    "a shortcut convolution always": (
        (DIFFER, "        if True:\n"),
        "a 1x1 shortcut convolution where channels do not change",
    ),
    "own activation at the end": (
        (BUILT, BUILT + "        self.act = act(**activation_params)\n"),
        (END, "        out = self.act(out)\n"),
        "the block's own activation at its end in place of the ReLU",
    ),
    "no activation at the end": ((END, ""), "no ReLU at the end of a block"),
    "no padding": (("padding=k // 2)", "padding=0)"), "convolutions without padding in blocks"),
    "padding 1": (("padding=k // 2)", "padding=1)"), "padding 1 whatever the kernel"),
    "kernels of 3": (
        ("kernel_size=k, padding=k // 2)", "kernel_size=3, padding=1)"),
        "3x3 kernels in place of kernel_sizes",
    ),
    "no skip": (("out = out + self.shortcut_path(x)\n", "pass\n"), "a block without its skip"),
    "activation parameters": (
        ("act(**activation_params)", "act()"),
        "an activation with default parameters in blocks",
    ),
    "always relu": (
        ("act = ACTIVATIONS[activation_type]", "act, activation_params = nn.ReLU, {}"),
        "ReLUs in blocks where another activation_type was asked for",
    ),
}


@pytest.mark.parametrize(("changes", "what"), cases(BLOCK_MISSES, listed=10))
def test_a_miss_of_the_block_is_named(changes, what):
    cause = explained(planted(*changes), "ResidualBlock")
    assert (cause.text, cause.drawn) == (what, "")
    assert cause.hint


INNER = "[inner_channels[0], *inner_channels, in_out_channels],\n            [1, *inner_kernel_sizes, 1],"
TAIL = "            if len(group) == P:\n"
NARROW = "            if self.bottleneck and in_channels == group[-1] and len(group) >= 3:\n"
NET_BLOCK = "layers.append(ResidualBlock(in_channels, group, [3] * len(group), **options))"

TWIN = (
    "    def _twin(self):\n"
    "        state = torch.get_rng_state()\n"
    "        self.twin = [self._make_feature_extractor().eval()]\n"
    "        torch.set_rng_state(state)\n\n"
)
NET_MISSES = {
    "whole group inside": (
        ("inner = group[1:-1]", "inner = group"),
        "the whole group as a bottleneck's inner channels",
    ),
    "tail pooled": ((TAIL, "            if True:\n"), "a pool after the leftover convolutions"),
    "mlp first": (
        (FEATURES + MLP, "        self._twin()\n" + MLP + FEATURES),
        ("self.feature_extractor(x).numel()", "self.twin[0](x).numel()"),
        ("    def _n_features(self):\n", TWIN + "    def _n_features(self):\n"),
        "an MLP built before the features",
    ),
    "statistics that move": (
        ("            self.eval()\n", ""),
        (RESTORE, "            pass\n"),
        "a feature count found by a pass in train mode, which draws masks and moves statistics",
    ),
    "never a bottleneck": ((NARROW, "            if False:\n"), "no bottleneck blocks"),
    "the image's channels": (
        ("in_channels == group[-1]", "self.in_size[0] == group[-1]"),
        "bottlenecks chosen by the image's channels, not the group's input",
    ),
    "no options for bottlenecks": (
        ("ResidualBottleneckBlock(in_channels, inner, [3] * len(inner), **options)",
         "ResidualBottleneckBlock(in_channels, inner, [3] * len(inner))"),
        "block options (batchnorm, dropout, activation) that do not reach bottleneck blocks",
    ),
    "no options for blocks": (
        (NET_BLOCK, NET_BLOCK.replace(", **options", "")),
        "block options (batchnorm, dropout, activation) that do not reach regular blocks",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "what"), cases(NET_MISSES, listed=4))
def test_a_miss_of_the_resnet_is_named(changes, what):
    cause = explained(planted(*changes), "ResNet")
    assert (cause.text, cause.drawn) == (what, "")
    assert cause.hint


@pytest.mark.slow
def test_a_bottleneck_that_forgets_its_options_is_named_once_its_block_is_right():
    changes = (
        "            [1, *inner_kernel_sizes, 1],\n            **kwargs,\n",
        "            [1, *inner_kernel_sizes, 1],\n",
    )
    told_of = failed(planted(changes), "ResidualBlock", "ResidualBottleneckBlock")
    assert {check.name.split()[0] for check in told_of} == {"ResidualBottleneckBlock"}
    what = "block options (batchnorm, dropout, activation) that do not reach bottleneck blocks"
    assert told_of[-1].message.endswith(f": exactly as with {what}")


def test_a_bottleneck_without_its_first_projection_is_named():
    changes = (INNER, "[*inner_channels, in_out_channels],\n            [*inner_kernel_sizes, 1],")
    assert (
        "a bottleneck without the 1x1 projection down"
        in failed(planted(changes), "ResidualBottleneckBlock")[-1].message
    )


CLASSIFIER_MISSES = {
    "softmax in forward": (("return self.model(x)", "return self.model(x).softmax(1)"), "a softmax in forward"),
    "softmax over the batch": (("softmax(z, dim=1)", "softmax(z, dim=0)"), "a softmax over dim 0 in predict_proba"),
    "no softmax": (("return torch.softmax(z, dim=1)", "return z"), "raw scores in predict_proba"),
    "argmax over the batch": (
        ("argmax(probabilities, dim=1)", "argmax(probabilities, dim=0)"),
        "an argmax over dim 0 in classify",
    ),
    "probabilities as classes": (
        ("return torch.argmax(probabilities, dim=1)", "return probabilities"),
        "scores or probabilities from classify, not classes",
    ),
}


@pytest.mark.parametrize(("changes", "what"), cases(CLASSIFIER_MISSES, listed=5))
def test_a_miss_of_the_classifier_is_named(changes, what):
    (check,) = failed(planted(*changes), "ArgMaxClassifier")
    assert f": exactly as with {what}" in check.message


# --- a pass in train mode that counts features moves running statistics, and is no failure

TRAIN = ("            self.eval()\n", "")
ZEROS = "torch.zeros(1, *self.in_size)"
COUNTING_PASSES = {
    "zeros": (),
    "ones": ((ZEROS, "torch.ones(1, *self.in_size)"),),
    "noise": ((ZEROS, "torch.randn(1, *self.in_size)"),),
    "two images": ((ZEROS, "torch.rand(2, *self.in_size)"), (".numel()", ".shape[1:].numel()")),
    "twice": (("extractor(x).numel()", "extractor(x + self.feature_extractor(x).sum()).numel()"),),
}


def by_status(every):
    return {status: [check for check in every if check.status == status] for status in ("warning", "failed")}


@pytest.mark.parametrize("changes", COUNTING_PASSES.values(), ids=COUNTING_PASSES)
def test_a_resnet_that_counts_features_in_train_mode_is_right_but_for_a_warning(changes):
    seen = by_status(found(planted(TRAIN, *changes), "ResNet"))
    assert seen["failed"] == []
    (warning,) = seen["warning"]
    assert warning.name == "ResNet running statistics"
    # three blocks of 2, 2 and 1 convolutions, and no batch norm after a block's last one
    assert warning.message == "a pass in train mode while it is built moves those of 2 batch norms"
    assert warning.hint.startswith("count features in eval mode, on the meta device, or by arithmetic")


def test_other_rules_are_judged_beside_moved_statistics():
    seen = by_status(found(planted(TRAIN, *CNN_MISSES["activation after the last Linear"][:-1]), "ResNet"))
    assert {check.name for check in seen["warning"]} == {"ResNet running statistics"}
    assert all(": exactly as with an activation after the last Linear" in check.message for check in seen["failed"])
    assert len(seen["failed"]) == 3


def test_running_statistics_that_are_written_are_a_difference():
    written = "        for buffer in self.buffers():\n            buffer.fill_(0)\n"
    message = failed(planted((BUILT, BUILT + written)), "ResidualBlock")[-1].message
    assert "buffers of other values than a new network's" in message


# --- more than one rule, and what no variant has


@pytest.mark.slow
def test_two_broken_rules_are_both_named():
    both = [*BLOCK_MISSES["no bias"][:-1], *BLOCK_MISSES["no activation at the end"][:-1]]
    message = failed(planted(*both), "ResidualBlock")[-1].message
    assert "convolutions without bias in blocks" in message
    assert "no ReLU at the end of a block" in message


@pytest.mark.slow
def test_a_resnet_is_explained_by_what_its_parts_break():
    misses = [BLOCK_MISSES["plain dropout"], CNN_MISSES["activation after the last Linear"], NET_MISSES["tail pooled"]]
    module = planted(*(change for miss in misses for change in miss[:-1]))
    *_, last = failed(module, "CNN", "ResidualBlock", "ResNet")
    assert last.name == "ResNet others"
    assert all(what in last.message for *_, what in misses)


@pytest.mark.slow
def test_numbers_drawn_in_an_unknown_way_are_told_from_what_is_computed():
    draws = (MLP, "        torch.rand(3)\n" + MLP)
    message = failed(planted(draws, *CNN_MISSES["softmax at the end"][:-1]), "CNN")[-1].message
    assert "a softmax after the last Linear and other initial values from mlp.0.weight on" in message
    message = failed(planted((FEATURES, "        torch.manual_seed(42)\n" + FEATURES)), "CNN")[-1].message
    assert "the constructor sets a seed" in message


@pytest.mark.slow
def test_what_no_variant_has_is_said_and_not_guessed():
    message = failed(planted(("nn.Dropout2d(dropout)", "nn.AlphaDropout(dropout)")), "ResidualBlock")[-1].message
    assert "the train-mode output differs by" in message
    assert "no rule that was tried, nor two of them, explains it" in message
    assert "main_path.1, is AlphaDropout(p=0.3, inplace=False), cnnprof's is Dropout2d(p=0.3, inplace=False)" in message


@pytest.mark.parametrize(
    ("change", "kind", "hint"),
    [
        (("nn.Linear(n_in, self.out_classes)", "nn.Linear(n_in, self.out_classes, bias=False)"), "CNN", "mlp_bias"),
        (
            (
                "        self.shortcut_path = nn",
                "        shortcut_layers = shortcut_layers or [nn.ReLU()]\n        self.shortcut_path = nn",
            ),
            "ResidualBlock",
            "shortcut",
        ),
        (('"gelu": nn.GELU,', '"gelu": lambda: nn.GELU("tanh"),'), "CNN", None),
    ],
)
def test_what_is_not_explained_blames_no_other_rule(change, kind, hint, monkeypatch):
    monkeypatch.setattr(checks, "MOST_TRIED", 10)
    assert failed(planted(change), kind)[-1].hint == (misses.RULES[hint] if hint else "")


def test_a_search_is_bounded_by_what_it_tries(monkeypatch):
    monkeypatch.setattr(checks, "MOST_TRIED", 0)  # one rule is always tried, two no more
    both = [*BLOCK_MISSES["no bias"][:-1], *BLOCK_MISSES["no activation at the end"][:-1]]
    message = failed(planted(*both), "ResidualBlock")[-1].message
    assert "no rule that was tried" in message


def test_a_slow_machine_changes_no_explanation(monkeypatch):
    hours = itertools.count(step=3600.0)
    for clock in ("monotonic", "perf_counter", "process_time", "thread_time"):
        monkeypatch.setattr(time, clock, lambda: next(hours))
    *changes, what = BLOCK_MISSES["plain dropout"]
    assert explained(planted(*changes), "ResidualBlock").text == what
    *changes, what = CNN_MISSES["a pool one too early"]
    assert explained(planted(*changes), "CNN").text == what


def test_layers_may_be_registered_in_any_order():
    shortcut = "        self.shortcut_path = nn.Sequential(*shortcut_layers)\n"
    assert failed(planted((BUILT, ""), (shortcut, shortcut + BUILT)), "ResidualBlock") == []


RAISES = [
    (
        "pooling_params={},\n    ):\n        super()",
        "):\n        super()",
        "unexpected keyword argument 'pooling_params'",
    ),
    (MLP, MLP + "        raise OSError('no such file')\n", "OSError: no such file, at student.py:"),
    (MLP, MLP + "        raise SystemExit(3)\n", "SystemExit: 3"),
    ("class CNN(nn.Module):", "class CNN:", "has no attribute 'training', at student.py:65"),
    ("nn.Linear(n_in, self.out_classes)", "nn.LazyLinear(self.out_classes)", "lazy layers"),
    ("out = self.mlp(features)", "out = [self.mlp(features)]", "it returned list; a tensor was expected"),
    ("out = self.mlp(features)", "out = self.mlp(features).detach()", "no gradient reaches the parameters"),
    ("self.feature_extractor(x).numel()", "12", "then RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [*RAISES[:2], *(pytest.param(*each, marks=pytest.mark.slow) for each in RAISES[2:])],
    ids=lambda text: text[-24:],
)
def test_a_class_that_raises_fails_its_own_checks_and_no_others(old, new, said):
    module = planted((old, new))
    told_of = failed(module, "CNN")
    assert said in told_of[-1].message
    assert failed(module, "ArgMaxClassifier") == []


CONVS = "        act = ACTIVATIONS[activation_type]\n"
TEMPLATE = (
    CONVS,
    "        assert channels and kernel_sizes\n        assert len(channels) == len(kernel_sizes)\n"
    "        assert all(map(lambda x: x % 2 == 1, kernel_sizes))\n" + CONVS,
)
TEMPLATE_INNER = (
    "kernel_sizes, **kwargs):\n        super().__init__(\n            in_out",
    "kernel_sizes, **kwargs):\n        assert len(inner_channels) > 0\n"
    "        assert len(inner_channels) == len(inner_kernel_sizes)\n        super().__init__(\n            in_out",
)
SHORT = (NARROW, NARROW.replace(" and len(group) >= 3", ""))


@pytest.mark.parametrize("assertion", [(), (TEMPLATE_INNER,)], ids=["raised by the list", "asserted"])
def test_an_assertion_hides_no_rule(assertion):
    """inner_channels[0] of a group of two raises IndexError where the template does not assert that there is one."""
    cause = explained(planted(SHORT, *assertion), "ResNet")
    assert cause.text == "bottlenecks of groups with fewer than 3 entries"


def lines_of(path, *changes):
    """Plant in a file that is there, so that its lines can be shown."""
    text = STUDENT
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text)
    return sources.imported("planted_student", path), text.splitlines()


@pytest.mark.parametrize(
    ("change", "kind", "condition", "rule"),
    [
        (
            ("inner, [3] * len(inner), **options", "inner, [3] * len(group), **options"),
            "ResNet",
            "len(inner_channels) == len(inner_kernel_sizes)",
            "inner_kernel",
        ),
        (
            ("group, [3] * len(group), **options", "group, [3] * P, **options"),
            "ResNet",
            "len(channels) == len(kernel_sizes)",
            "group_kernel",
        ),
        (
            ("[inner_channels[0], *inner_channels, in_out_channels]", "[*inner_channels, in_out_channels]"),
            "ResidualBottleneckBlock",
            "len(channels) == len(kernel_sizes)",
            "inner",
        ),
    ],
)
def test_a_bare_assertion_is_told_by_its_line_and_its_rule(tmp_path, change, kind, condition, rule):
    module, lines = lines_of(tmp_path / "my_cnn.py", TEMPLATE, TEMPLATE_INNER, change)
    number = 1 + lines.index(f"        assert {condition}")
    last = failed(module, kind)[-1]
    assert f"AssertionError: assert {condition}, at my_cnn.py:{number}" in last.message
    assert last.hint == misses.RULES[rule]


UNWRITTEN = "raise NotImplementedError()\n"


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        (MLP, "        " + UNWRITTEN, "CNN"),
        ("        out = self.mlp(features)\n", "        " + UNWRITTEN, "CNN"),
        (END, "        " + UNWRITTEN, "ResidualBlock"),
        ("        z = self.model(x)\n", "        " + UNWRITTEN, "ArgMaxClassifier"),
        ("                inner = group[1:-1]\n", "                " + UNWRITTEN, "ResNet"),
    ],
)
def test_what_is_not_written_yet_is_told_by_its_line(old, new, kind):
    text = STUDENT.replace(old, new)
    module = types.ModuleType("student")
    exec(compile(text, "student.py", "exec"), vars(module))
    number = 1 + next(index for index, line in enumerate(text.splitlines()) if UNWRITTEN.strip() in line)
    last = failed(module, kind)[-1]
    assert last.message.endswith(f"not written yet, line {number} of student.py")
    assert last.hint == ""


def test_a_students_settings_of_torch_change_nothing():
    settings = "import torch\ntorch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\n"
    every = found(planted(("import torch\n", settings)), "ResidualBottleneckBlock")
    assert {check.status for check in every} == {"ok"}


# --- the variants themselves


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind == "ResNet" else []) for kind in process.KINDS]
)
def test_with_no_rule_broken_the_variants_are_cnnprofs_builders(kind):
    assert {check.status for check in checks.checks_of(kind, misses.broken(kind, ()), {})} == {"ok"}


@pytest.mark.parametrize(
    "kind", ["ArgMaxClassifier", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("CNN", "ResidualBlock"))]
)
def test_no_two_broken_rules_look_alike(kind):
    seen = {
        miss: [list(told(probe.facts(misses.broken(kind, [miss])))) for probe in checks.PROBES[kind]]
        for miss in misses.misses_of(kind)
    }
    ours = [list(told(probe.facts(checks.OURS[kind]))) for probe in checks.PROBES[kind]]
    assert [miss for miss, its in seen.items() if all(map(agree, its, ours))] == []
    alike = [
        (one.what, other.what)
        for (one, mine), (other, its) in itertools.combinations(seen.items(), 2)
        if one.what != other.what and all(map(agree, mine, its))
    ]
    assert alike == []


# --- through the process and the command line


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text, name="my_cnn.py"):
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        Path(name).write_text(text)
        return name

    return write


CLASSIFIER = STUDENT[STUDENT.index("class ArgMaxClassifier") :]
QUICK = "import torch\nimport torch.nn as nn\n" + CLASSIFIER


@pytest.mark.slow
def test_a_file_that_is_loud_reads_input_and_lacks_classes(typed, written):
    written("from parts import nn, torch\nprint('x' * 1_000_000)\n" + CLASSIFIER, "hw/my_cnn.py")
    written("import torch\nimport torch.nn as nn\n", "hw/parts.py")
    code, out, err = typed("verify", "hw/my_cnn.py", "--json")
    document = json.loads(out)
    assert (code, err, document["schema"], document["passed"]) == (0, "", "cnnprof.verification/1", True)
    assert [(check["name"], check["status"]) for check in document["checks"]] == [
        ("ArgMaxClassifier", "ok"), ("CNN", "skipped"), ("ResidualBlock", "skipped"),
        ("ResidualBottleneckBlock", "skipped"), ("ResNet", "skipped"),
    ]  # fmt: skip
    assert store.from_document(document).passed


def test_a_miss_is_shown_and_saved(typed, written):
    file = written(QUICK.replace("softmax(z, dim=1)", "softmax(z, dim=0)"))
    code, out, err = typed("verify", file, "-o", "found/")
    assert (code, err) == (1, "cnnprof: my_cnn.py: 1 failed, 4 skipped\n")
    assert "exactly as with a softmax over dim 0 in" in " ".join(out.split())
    assert "imported as pytest would, so its code ran" in out
    for suffix in (".json", ".md", ".html"):
        assert "softmax over dim 0" in Path(f"found/my_cnn-verification{suffix}").read_text()
    assert typed("report", "found/my_cnn-verification.json", "-o", "again.csv")[0] == 0


@pytest.mark.slow
def test_a_package_is_imported_under_its_name(written):
    written("", "hw2/__init__.py")
    written("import torch\nimport torch.nn as nn\n", "hw2/parts.py")
    file = written("from .parts import *\nfrom hw2.parts import nn\n" + CLASSIFIER, "hw2/my_cnn.py")
    assert cnnprof.verify(file).checks[0].status == "ok"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class Net: pass\nclass Block: pass\n", "my_cnn.py has none of CNN, ResidualBlock"),
        ("class Net: pass\nclass Block: pass\n", "ArgMaxClassifier; it has Net, Block"),
        (
            "import argparse\np = argparse.ArgumentParser()\np.add_argument('x')\nargs = (\n    p.parse_args()\n)\n",
            "importing it raised SystemExit: 2, at my_cnn.py:5",
        ),
        (
            "import json\nfrom pathlib import Path\nstate = json.loads(Path('none.json').read_text())\n",
            "No such file or directory: 'none.json', at my_cnn.py:3",
        ),
        ("import torch\nw = torch.load('none.pt')\n", "No such file or directory: 'none.pt', at my_cnn.py:2"),
        ("import numpy as np\nnp.loadtxt('none.txt')\n", "none.txt not found., at my_cnn.py:2"),
        ("x = 1\nraise NotImplementedError()\n", "cnnprof: my_cnn.py: not written yet, line 2 of my_cnn.py\n"),
        ("x = 1\nx / 0\n", "importing it raised ZeroDivisionError: division by zero, at my_cnn.py:2"),
        ("import os\nos._exit(7)\n", "importing it ended with exit code 7; keep what trains or runs under if __name__"),
        ("def f(:\n", "importing it raised SyntaxError"),
        ("input('name? ')\n", "importing it raised EOFError"),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_an_unusable_file_is_told_in_one_line(typed, written, text, said):
    code, out, err = typed("verify", written(text))
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.py"], "nowhere.py does not exist: verify takes one .py file with CNN, ResidualBlock"),
        (["."], ". is a folder"),
        (["x.txt"], "x.txt is no Python file"),
        (["my_cnn.py", "--timeout", "0"], "timeout 0.0: seconds above 0 were expected"),
        (["my_cnn.py", "-o", "x.pdf"], "x.pdf"),
    ],
)
def test_wrong_usage_is_told_before_anything_runs(typed, written, arguments, said):
    written("raise SystemExit('it ran')"), written("", "x.txt")
    code, _, err = typed("verify", *arguments)
    assert code == 2
    assert said in err


LOOPS = """
import pathlib, subprocess, sys
started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
pathlib.Path("started").write_text(str(started.pid))
while True: pass
"""


def test_a_file_that_was_not_even_begun_in_time_is_not_blamed(typed, written):
    code, out, err = typed("verify", written(QUICK), "--timeout", "0.01")
    assert (code, err) == (
        3,
        "cnnprof: my_cnn.py: inconclusive: cnnprof's own start did not return within 10.0 ms (--timeout)\n",
    )
    assert out.splitlines()[1].startswith("Inconclusive: cnnprof's own start did not return")
    assert "Not passed" not in out


WRONG_CNN = {"name": "CNN cnn_00", "status": "failed", "value": 0.5, "message": "differs", "hint": ""}
TOLD = [{"importing": True}, {"found": ["CNN", "ResNet"], "classes": []}, {"doing": "CNN"}]


@pytest.mark.parametrize(
    ("told", "statuses", "failure"),
    [
        ([], ["skipped", "skipped"], "CNN did not return within 9 s"),
        (
            [{"early": [WRONG_CNN]}],
            ["failed", "skipped"],
            "the search for what CNN breaks did not return within 9 s",
        ),
        (
            [{"early": [WRONG_CNN]}, {"check": WRONG_CNN}, {"doing": "ResNet"}],
            ["failed", "skipped"],
            "ResNet did not return within 9 s",
        ),
    ],
    ids=["a class", "a search", "a class after a search"],
)
def test_what_time_was_not_enough_for_is_inconclusive(monkeypatch, written, told, statuses, failure):
    cut = process._Answer([*TOLD, *told], "did not return within 9 s", out_of_time=True)
    monkeypatch.setattr(process, "_run", lambda file, kinds, timeout_s: cut)
    record = cnnprof.verify(written(QUICK))
    assert record.failure == failure
    assert not record.passed
    assert [check.status for check in record.checks if check.name.split()[0] in ("CNN", "ResNet")] == statuses


def test_a_file_that_cannot_be_imported_twice_fails_what_is_left(monkeypatch, written):
    answers = [
        process._Answer(TOLD, "ended with exit code 3", out_of_time=False),
        process._Answer(
            [{"importing": True}, {"unusable": "importing it raised OSError: it is there"}], None, out_of_time=False
        ),
    ]
    monkeypatch.setattr(process, "_run", lambda file, kinds, timeout_s: answers.pop(0))
    first, second = cnnprof.verify(written(QUICK)).checks[:2]
    assert (first.name, first.message) == ("CNN", "its process ended with exit code 3")
    assert (second.name, second.status) == ("ResNet", "failed")
    assert second.message == "importing it raised OSError: it is there"


@pytest.mark.slow
def test_a_file_that_never_returns_is_ended_with_all_that_it_started(written):
    with pytest.raises(UsageError, match="importing it did not return within 20 s"):
        cnnprof.verify(written(LOOPS), timeout_s=20)
    wait_for(lambda: not alive(int(Path("started").read_text())))


@pytest.mark.slow
def test_a_class_that_ends_its_process_or_never_returns_leaves_the_others(typed, written):
    dies = QUICK + "class CNN:\n    def __init__(self, **k):\n        import os; os._exit(3)\n"
    code, out, err = typed("verify", written(dies), "--json")
    document = json.loads(out)
    assert (code, err) == (1, "cnnprof: my_cnn.py: 1 ok, 1 failed, 3 skipped\n")
    assert document["checks"][0]["message"] == "its process ended with exit code 3"
    loops = dies.replace("import os; os._exit(3)", "\n            while True: pass").replace(
        "class CNN", "class ResNet"
    )
    record = cnnprof.verify(written(loops), timeout_s=20)
    assert record.failure == "ResNet did not return within 20 s (--timeout)"
    first, second = record.checks[:2]
    assert (first.name, first.status, first.message) == (
        "ResNet", "skipped", "it did not return within 20 s (--timeout)"
    )  # fmt: skip
    assert (second.name, second.status, second.message[:7]) == ("ArgMaxClassifier", "skipped", "no time")
    assert not record.passed


@pytest.mark.slow
def test_a_whole_right_file_passes_in_a_process_of_its_own(typed, written):
    code, out, err = typed("verify", written(STUDENT))
    assert (code, err) == (0, "")
    assert "CNN                      5 of 5 agree" in out
    assert "Passed: 14 ok, 1 skipped." in out
    assert "a correct network cannot match them" in " ".join(out.split())


def test_a_verification_that_ended_early_has_not_passed():
    checks = (Check("CNN cnn_00", "ok", 1e-6, "agrees"), Check("<b>&", "warning", None, "a | b"))
    record = Verification("cnnprof verify x.py", "2026-11-23T00:00:00+00:00", "x.py", "2.14.1", checks)
    assert record.passed
    assert not Verification(**{**vars(record), "failure": "ResNet did not return"}).passed
    assert "&lt;b&gt;&amp;" in record._repr_html_()
    assert store.from_document(store.to_document(record)) == record
