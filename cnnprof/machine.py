"""What a time depends on: processors, threads, versions, load, and what the process really got. No host, no user."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from cnnprof.records import Machine


def describe(device: str = "cpu", allocator: str = "kept") -> Machine:
    """Return the machine record; `device` as torch names it."""
    import torch

    on_cuda = torch.device(device).type == "cuda"
    return Machine(
        cpu=_cpu_model(),
        physical_cores=psutil.cpu_count(logical=False),
        logical_cores=psutil.cpu_count(logical=True),
        threads=torch.get_num_threads(),
        memory_bytes=psutil.virtual_memory().total,
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        torch=str(torch.__version__),
        device=device,
        device_name=torch.cuda.get_device_name(device) if on_cuda else None,
        cuda=torch.version.cuda if on_cuda else None,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        allocator=allocator if allocator == "system" or _mallopt() is not None else "system",
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        instructions=torch.backends.cpu.get_cpu_capability(),
        cudnn_benchmark=bool(torch.backends.cudnn.benchmark) if on_cuda else None,
        tf32=bool(torch.backends.cuda.matmul.allow_tf32) if on_cuda else None,
        environment={name: os.environ[name] for name in _CHANGES_TIMES if name in os.environ},
    )


_CHANGES_TIMES = (
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "MKL_NUM_THREADS",
    "MALLOC_CONF",
    "MALLOC_ARENA_MAX",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "CUDA_LAUNCH_BLOCKING",
    "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_CUDA_ALLOC_CONF",
)


def resident_bytes() -> int:
    """Return the memory that this process has resident."""
    return int(psutil.Process().memory_info().rss)


def peak_resident_bytes() -> int:
    """Return the most that this process ever had resident."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024  # macOS counts bytes, Linux KiB


def give_back() -> None:
    """Have the C library return what it keeps of freed memory, where it can."""
    if _mallopt() is not None:
        ctypes.CDLL(None).malloc_trim(0)


def available_bytes() -> int:
    """Return the memory that could be had without swapping."""
    return int(psutil.virtual_memory().available)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def waited_s() -> float | None:
    """Return the seconds that the living threads of this process have waited for a processor; None where not told.

    In a run queue: field 2 of /proc/self/task/*/schedstat, in nanoseconds (Linux, Documentation/scheduler/sched-stats);
    and because their group's quota was used up, as that of a container may be (Documentation/admin-guide/cgroup-v2).
    """
    waited_ns, told = 0, False
    for task in Path("/proc/self/task").glob("*/schedstat"):
        try:
            waited_ns += int(task.read_text(encoding="ascii").split()[1])
            told = True
        except (OSError, IndexError):  # the thread has ended, or the kernel keeps no such account
            continue
    return waited_ns / 1e9 + _throttled_s() if told else None


def _throttled_s() -> float:
    try:
        lines = Path("/sys/fs/cgroup/cpu.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("throttled_usec")) / 1e6


# malloc.h of the GNU C library: the parameter's number, what keeps memory, and the library's default.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEEP = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: 64 << 20}
_DEFAULT = {_M_MMAP_MAX: 65536, _M_TRIM_THRESHOLD: 128 << 10, _M_TOP_PAD: 128 << 10}


@contextmanager
def kept_allocator(keep: bool = True) -> Iterator[None]:
    """Let the C library keep freed memory within the block: large activations are then not mapped anew on every call.

    Linux with the GNU C library; elsewhere nothing happens, and the machine record says `system`.
    """
    mallopt = _mallopt() if keep else None
    if mallopt is None:
        yield
        return
    for parameter, value in _KEEP.items():
        mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _DEFAULT.items():
            mallopt(parameter, value)
        give_back()


def _mallopt() -> "ctypes._NamedFuncPointer | None":
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None).mallopt
