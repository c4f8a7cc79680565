"""A process of its own for a student's file: imports it as pytest would, checks its classes, tells what it found.

What the file prints goes nowhere, and what it reads is empty; answers are lines of JSON in a file that the parent
reads, so that an end without warning loses none of those given before.
"""

import dataclasses
import faulthandler
import importlib
import json
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from cnnprof import sources
from cnnprof.verification.checks import Cause, checks_of
from cnnprof.verification.facts import ANYTHING, Raised


def tell() -> None:
    """Do the job that stands on standard input: a file, the classes to look for, where to tell."""
    job = json.load(sys.stdin)
    faulthandler.dump_traceback_later(job["timeout_s"], exit=True, file=Path(os.devnull).open("w"))  # noqa: SIM115
    with Path(job["answers"]).open("a", encoding="utf-8", buffering=1) as answers:

        def say(**answer: Any) -> None:
            answers.write(json.dumps(answer) + "\n")

        torch.set_num_threads(1)  # of networks this small
        say(importing=True)
        try:
            with warnings.catch_warnings(action="ignore"):
                module = imported(Path(job["file"]))
        except ANYTHING as error:
            raised = Raised.of(error)
            say(unusable=str(raised) if raised.unwritten else f"importing it raised {raised}")
            os._exit(0)
        named = vars(module)
        found = [kind for kind in job["kinds"] if callable(named.get(kind))]
        classes = [name for name, its in named.items() if isinstance(its, type) and its.__module__ == module.__name__]
        say(found=found, classes=classes)
        before: dict[str, Cause] = {}
        for kind in found:
            say(doing=kind)
            for check in checks_of(
                kind, named[kind], before, lambda early: say(early=[*map(dataclasses.asdict, early)])
            ):
                say(check=dataclasses.asdict(check))
        say(doing=None)
    os._exit(0)  # without what a student's code may have left to do at exit


def imported(path: Path) -> ModuleType:
    """Import a file as pytest would: under the name of its package, whose folder is where it looks for neighbours."""
    root, package = path.parent, list[str]()
    while (root / "__init__.py").is_file():
        root, package = root.parent, [root.name, *package]
    sys.path.insert(0, str(root))
    if package:
        importlib.import_module(".".join(package))
    name = ".".join([*package, path.stem])
    name = f"student_{name}" if name in sys.modules else name
    return sources.imported(name, path)
