"""The working: sums of products that give exactly what was counted, in symbols and in numbers."""

import dataclasses

import pytest
from hard_networks import CASES, Net, conv, shared_by_two
from torch import nn

import cnnprof
from cnnprof import reporting, store
from cnnprof.reporting import tables, terminal, workings

ZOO = ("alexnet", "resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "squeezenet1_0", "vit_b_16")
MORE_OF_THE_ZOO = (
    "vgg11_bn", "googlenet", "inception_v3", "resnext50_32x4d", "densenet121", "mobilenet_v3_small", "mnasnet0_5",
    "torchvision:efficientnet_b0", "torchvision:convnext_tiny", "regnet_y_400mf", "swin_t", "maxvit_t", "r3d_18",
    "fcn_resnet50",
)  # fmt: skip


def evaluated(numbers: str) -> int:
    """Work out what stands left of the last equals sign, and check that it is what stands right of it."""
    *sides, result = numbers.split(" = ")
    for side in sides:
        terms = [[int(factor) for factor in term.split("·")] for term in side.split(" + ")]
        total = 0
        for term in terms:
            product = 1
            for factor in term:
                product *= factor
            total += product
        assert f"{total:,}" == result
    return int(result.replace(",", ""))


def check(analysis) -> None:
    for what in ("params", "macs"):
        found = workings.sums(analysis, what)
        counted = {layer.path: getattr(layer, what) for layer in analysis.layers if getattr(layer, what)}
        assert {path: evaluated(each.numbers) for each in found for path in each.paths} == counted
        assert sum(each.together for each in found) == getattr(analysis, what)
        for each in found:
            assert len(each.symbols.split(" + ")) == max(1, len(each.terms))


@pytest.mark.parametrize("name", [*ZOO, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_OF_THE_ZOO)])
def test_every_row_of_the_zoo_evaluates_to_what_was_counted_and_none_is_without_a_formula(name):
    analysis = cnnprof.analyze(name)
    check(analysis)
    assert all(each.terms for what in ("params", "macs") for each in workings.sums(analysis, what))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hard_networks_have_a_right_formula_or_none(case):
    check(cnnprof.analyze(case.module, inputs=case.inputs()))


LINES = {
    "3·3·256·256 + 256": (nn.Conv2d(256, 256, 3, padding=1), (256, 8, 8), "k·k·C_in·C_out + C_out",
                          "3·3·256·256·8·8", "k·k·C_in·C_out·H·W"),
    "3·3·8·64": (nn.Conv2d(32, 64, 3, groups=4, bias=False), (32, 6, 5), "k·k·C_in/g·C_out",
                 "3·3·8·64·4·3", "k·k·C_in/g·C_out·H·W"),
    "1·7·4·6 + 6": (nn.Conv2d(4, 6, (1, 7)), (4, 3, 9), "kh·kw·C_in·C_out + C_out",
                    "1·7·4·6·3·3", "kh·kw·C_in·C_out·H·W"),
    "5·3·4 + 4": (nn.Conv1d(3, 4, 5), (3, 9), "k·C_in·C_out + C_out", "5·3·4·5", "k·C_in·C_out·L"),
    "2·2·2·3·4 + 4": (nn.Conv3d(3, 4, 2), (3, 4, 5, 6), "k·k·k·C_in·C_out + C_out",
                      "2·2·2·3·4·3·4·5", "k·k·k·C_in·C_out·D·H·W"),
    "2·2·8·3 + 6": (nn.ConvTranspose2d(8, 6, 2, 2, groups=2), (8, 5, 5), "k·k·C_in·C_out/g + C_out",
                    "2·2·8·3·5·5", "k·k·C_in·C_out/g·H·W"),
    "16·32 + 32": (nn.Linear(16, 32), (10, 16), "in·out + out", "10·16·32", "n·in·out"),
    "16·7": (nn.Linear(16, 7, bias=False), (16,), "in·out", "16·7", "in·out"),
}  # fmt: skip


@pytest.mark.parametrize("numbers", LINES)
def test_layers_are_worked_out_as_by_hand(numbers):
    layer, size, symbols, products, in_symbols = LINES[numbers]
    analysis = cnnprof.analyze(layer, size)
    (params,), (macs,) = workings.sums(analysis, "params"), workings.sums(analysis, "macs")
    assert (params.symbols, params.numbers) == (symbols, f"{numbers} = {analysis.params:,}")
    assert (macs.symbols, macs.numbers) == (in_symbols, f"{products} = {analysis.macs:,}")
    assert params.biases == (layer.bias.numel() if layer.bias is not None else 0)


@pytest.mark.parametrize(
    ("layer", "size", "symbols", "numbers"),
    [
        (nn.BatchNorm2d(5), (5, 2, 2), "C + C", "5 + 5 = 10"),
        (nn.LayerNorm((3, 4)), (2, 3, 4), "weight + bias", "3·4 + 3·4 = 24"),
        (nn.PReLU(), (5, 2, 2), "weight", "1"),
        (nn.LSTM(4, 3, bias=False), (2, 4), "weight_ih_l0 + weight_hh_l0", "12·4 + 12·3 = 84"),
    ],
)
def test_other_parameters_are_products_of_their_shapes(layer, size, symbols, numbers):
    (params,) = workings.sums(cnnprof.analyze(layer, size), "params")
    assert (params.symbols, params.numbers) == (symbols, numbers)


def test_attention_is_projections_scores_and_mixtures():
    net = Net(lambda net, x: net.a(x, x, x, need_weights=False), a=nn.MultiheadAttention(32, 4, batch_first=True))
    (row,) = workings.sums(cnnprof.analyze(net, (16, 32)), "macs")
    assert row.numbers == "16·32·96 + 4·16·16·8 + 4·16·16·8 + 16·32·32 = 81,920"


def test_a_layer_without_a_formula_shows_its_number_alone():
    analysis = cnnprof.analyze(nn.GRU(16, 32, batch_first=True), (10, 16))
    (row,) = workings.sums(analysis, "macs")
    assert (row.terms, row.numbers) == ((), "46,080")  # 10 steps of 96·(16 + 32)
    assert "46,080, counted by operator" in tables.working_tables(analysis)[1].rows[0]


def test_a_batch_calls_and_passes_are_factors():
    batch = cnnprof.analyze(conv(3, 8, bias=False), (3, 4, 4), batch_size=2)
    assert workings.sums(batch, "macs")[0].said == "2·3·3·3·8·4·4 = 6,912"
    shared = cnnprof.analyze(shared_by_two(), (8, 4, 4))
    assert workings.sums(shared, "macs")[0].said == "2·3·3·8·8·4·4 = 18,432"
    assert workings.sums(shared, "params")[0].said == "3·3·8·8 + 8 = 584"
    trained = cnnprof.analyze(nn.Sequential(conv(3, 8), conv(8, 8)), (3, 4, 4), mode="training")
    first, second = workings.sums(trained, "macs")  # the first needs no gradient of its input
    assert first.said == "2·3·3·3·8·4·4 = 6,912"
    assert second.said == "3·3·3·8·8·4·4 = 27,648"
    assert second.symbols == "passes·k·k·C_in·C_out·H·W"


REGULAR = (
    "regular has 3·3·256·256 + 256 = 590,080, twice: 1,180,160 (1,179,648 without biases).",
    "regular takes 3·3·256·256·56·56 = 1,849,688,064, twice: 3,699,376,128 MACs an image.",
)
BOTTLENECK = (
    "bottleneck has 1·1·256·64 + 64 = 16,448, 3·3·64·64 + 64 = 36,928 and 1·1·64·256 + 256 = 16,640; "
    "together 16,448 + 36,928 + 16,640 = 70,016 (69,632 without biases).",
    "bottleneck takes 1·1·256·64·56·56 = 51,380,224, 3·3·64·64·56·56 = 115,605,504 and "
    "1·1·64·256·56·56 = 51,380,224; together 51,380,224 + 115,605,504 + 51,380,224 = 218,365,952 MACs an image.",
)


@pytest.fixture(scope="module")
def blocks():
    """A run of both blocks in which nothing was measured."""
    from test_reporting import without_measurements

    run = without_measurements()
    profiles = tuple(
        dataclasses.replace(profile, name=name, analysis=cnnprof.analyze(name))
        for profile, name in zip(run.profiles, ("regular", "bottleneck"), strict=True)
    )
    contrast = dataclasses.replace(run.comparisons[0], name="bottleneck")
    return dataclasses.replace(run, profiles=profiles, baseline="regular", comparisons=(contrast,))


def test_the_first_two_questions_are_answered_with_the_working(blocks):
    (_, params), (_, macs), *_ = tables.answers(blocks)
    for number, answer in enumerate((params, macs)):
        assert REGULAR[number] in answer
        assert BOTTLENECK[number] in answer


def test_totals_add_up_and_biases_stand_apart(blocks):
    params, macs = tables.working_tables(blocks.profiles[1].analysis)
    assert params.rows[-1] == ("total", "", "16,448 + 36,928 + 16,640", "", "70,016", "69,632")
    assert [row[-1] for row in params.rows] == ["16,384", "36,864", "16,384", "69,632"]
    assert macs.rows[-1][2] == "51,380,224 + 115,605,504 + 51,380,224"
    (same, total), _ = (table.rows for table in tables.working_tables(blocks.profiles[0].analysis))
    assert same[0] == "main_path.0, main_path.2"
    assert same[3:] == ("2", "1,180,160", "1,179,648")
    assert total[2:] == ("2·590,080", "", "1,180,160", "1,179,648")


def test_a_large_network_is_worked_out_in_few_lines():
    analysis = cnnprof.analyze("torchvision:resnet152")
    for table in tables.working_tables(analysis):
        assert len(table.rows) < 35
    # Biases: 64 in the stem, (mid + mid + 4·mid) a block, 4·mid a shortcut, 1000 in the head.
    biases = 64 + sum(blocks * 6 * mid + 4 * mid for blocks, mid in ((3, 64), (8, 128), (36, 256), (3, 512))) + 1000
    assert tables.working_tables(analysis)[0].rows[-1][-2:] == ("60,192,808", f"{60_192_808 - biases:,}")


def test_the_working_stands_in_every_form(blocks):
    for record in (blocks, blocks.profiles[1].analysis):
        for source in (reporting.as_markdown(record), reporting.as_html(record)):
            for words in ("The working", "1·1·256·64 + 64 = 16,448", "69,632", "C_in: channels in"):
                assert words in source.replace("\n", " ").replace("\\_", "_")


def test_the_legend_explains_what_is_used_and_no_more():
    said = workings.legend(cnnprof.analyze(nn.ConvTranspose1d(2, 3, 4), (2, 5)))
    assert said == ("k: side of a kernel; C_in: channels in; C_out: channels out; L: length of the output; "
                    "lengths of a transposed convolution are its input's.")  # fmt: skip
    assert "parameter tensors' own names" in workings.legend(cnnprof.analyze(nn.LSTM(4, 3), (2, 4)))
    assert workings.legend(cnnprof.analyze(nn.ReLU(), (2, 4))) == ""


@pytest.mark.parametrize("width", [80, 120])
def test_show_work_prints_the_sums(typed, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, err = typed("analyze", "bottleneck", "--show-work")
    assert (code, err) == (0, "")
    flat = " ".join(out.split())
    for words in ("k·k·C_in·C_out + C_out", "1·1·256·64 + 64 = 16,448", "16,448 + 36,928 + 16,640", "70,016",
                  "Without biases: 69,632 parameters."):  # fmt: skip
        assert words in flat
    assert max(map(len, out.splitlines())) <= width
    _, plain, _ = typed("analyze", "bottleneck")
    assert "16,448" not in plain


def test_a_run_shows_the_working_of_each_candidate(blocks):
    import io

    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=100).print(terminal.renderable(blocks, show_work=True))
    assert "3·3·256·256 + 256 = 590,080" in out.getvalue()
    assert "1·1·64·256 + 256 = 16,640" in out.getvalue()


def test_documents_from_before_the_working_are_reported_still(blocks):
    document = store.to_document(blocks)
    assert store.from_document(document) == blocks
    for profile in document["profiles"]:
        del profile["analysis"]["working"], profile["analysis"]["structure"]
    old = store.from_document(document)
    assert "16,448 + 36,928 + 16,640 = 70,016." in tables.answers(old)[0][1]
    assert "The working" not in reporting.as_markdown(old) + reporting.as_html(old)
