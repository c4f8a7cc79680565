"""Saved records to what people read, and back: the example run, and the analysis of its first network."""

import json
from pathlib import Path

import pytest

from cnnprof import reporting

EXAMPLE = Path(__file__).parents[1] / "reports" / "examples" / "regular-vs-bottleneck.json"
TEXT = EXAMPLE.read_text(encoding="utf-8")
DOCUMENT, RUN = json.loads(TEXT), reporting.load(EXAMPLE)
ANALYSIS = RUN.profiles[0].analysis

WAYS = {
    "a run to JSON": {
        "json alone": lambda: json.dumps(DOCUMENT, indent=1),
        "cnnprof": lambda: reporting.RENDERERS[".json"](RUN),
    },
    "a run from JSON": {"json alone": lambda: json.loads(TEXT), "cnnprof": lambda: reporting.load(EXAMPLE)},
    "a run to Markdown": {"cnnprof": lambda: reporting.as_markdown(RUN)},
    "a run to HTML": {"cnnprof": lambda: reporting.as_html(RUN)},
    "an analysis to JSON": {"cnnprof": lambda: reporting.RENDERERS[".json"](ANALYSIS)},
    "an analysis to Markdown": {"cnnprof": lambda: reporting.as_markdown(ANALYSIS)},
    "an analysis to HTML": {"cnnprof": lambda: reporting.as_html(ANALYSIS)},
}


@pytest.mark.parametrize(
    ("way", "what"),
    [pytest.param(way, what, marks=pytest.mark.benchmark(group=way)) for way, calls in WAYS.items() for what in calls],
)
def test_reporting(benchmark, way, what):
    benchmark(WAYS[way][what])
