"""Cores, GPU and memory of this machine."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import math
import os
import platform
import sys
from pathlib import Path

from tagger.errors import UsageError

DEVICES = ("auto", "cpu", "cuda")
NO_GPU = "--device cuda: torch finds no usable GPU; use --device cpu or auto"
_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimddp",
    "bf16",
    "i8mm",
)
"""Instruction sets that decide the speed and precision of bf16 and int8 networks."""


def cores() -> int:
    """Return the number of cores this process may use, by its affinity and its container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, quota()))


def quota(file: str | Path = "/sys/fs/cgroup/cpu.max") -> int:
    """Return the CPU quota of this container in cores, rounded up."""
    try:
        quota, period = Path(file).read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no cgroup, or `max`
        return sys.maxsize


@functools.cache
def processor() -> str:
    """Return the processor's name and the instruction sets that matter to engines."""
    try:
        facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    except OSError:
        facts = {}
    known = {name.strip(): value.strip() for name, value in facts.items()}
    have = set(known.get("flags", known.get("Features", "")).split())
    name = known.get("model name") or platform.processor() or platform.machine()
    return " ".join([name, *(flag for flag in _FLAGS if flag in have)])


def has_bf16(device: str = "cpu") -> bool:
    """Return whether the device computes in bf16: every GPU and some CPUs do; others emulate it, far slower."""
    return device != "cpu" or not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(processor().split())


@functools.cache
def has_cuda() -> bool:
    """Return whether torch can use a GPU.

    The driver's library is looked for first: importing torch only to find no GPU would take seconds.
    """
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()


def device(name: str) -> str:
    """Return cuda or cpu for --device; raises UsageError for cuda without a GPU, and for any other name."""
    if name not in DEVICES:
        raise UsageError(f"--device {name}: expected one of {', '.join(DEVICES)}")
    if name == "cuda" and not has_cuda():
        raise UsageError(NO_GPU)
    return "cuda" if name != "cpu" and has_cuda() else "cpu"


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Options of glibc's malloc: mallopt(3)."""


def keep_freed_memory() -> None:
    """Keep large freed blocks in this process for reuse: for training, on Linux.

    Otherwise the kernel maps and clears the memory of the activations in every step, a third of the time of a
    MobileNet's step.
    """
    _set_malloc(_MMAP_THRESHOLD, 2**30)
    _set_malloc(_TRIM_THRESHOLD, 2**31 - 1)


def return_large_blocks() -> None:
    """Return the memory of every large image to the system when it is freed: for servers, on Linux.

    Otherwise glibc keeps Pillow's blocks of 16 MB in the heap of each thread, gigabytes after a few large images.
    """
    _set_malloc(_MMAP_THRESHOLD, 15 << 20)


def _set_malloc(option: int, value: int) -> None:
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None:
        mallopt(option, value)


def raise_file_limit() -> None:
    """Raise the limit on open files to the maximum that the system permits."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows; a limit that may not be raised
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 65_536) if most > 0 else 65_536, most))


def return_freed_memory() -> None:
    """Return freed memory to the system, so that the next measurement does not include it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


def peak_memory() -> int:
    """Return the peak memory of this process in bytes; 0 where the system does not report it."""
    with contextlib.suppress(OSError, StopIteration):  # getrusage() would include the process that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
