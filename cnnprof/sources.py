"""A user's own file, imported by its path."""

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType


class _Compiler(SourceFileLoader):
    """Compiles a file anew each time: Python takes bytecode for a file's own where seconds and size are the same."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile what the file holds."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def imported(name: str, path: Path) -> ModuleType:
    """Run a file as a module of some name, whatever was known under that. Raises what it raises."""
    loader = _Compiler(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where pickle and dataclasses look a class's module up
    loader.exec_module(module)
    return module
