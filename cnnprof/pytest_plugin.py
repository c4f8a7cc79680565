"""The door for pytest: where pytest-benchmark is there, its hooks and its fixture come in; else nothing does.

Loads no torch. PYTEST_DONT_REWRITE
"""

from typing import Any


def pytest_plugin_registered(plugin: object, manager: Any) -> None:
    """Wait for pytest-benchmark, which may be registered before or after this."""
    if getattr(plugin, "__name__", "") == "pytest_benchmark.plugin":
        from cnnprof import pytest_benchmarks

        manager.register(pytest_benchmarks, "cnnprof-benchmarks")
