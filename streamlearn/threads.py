"""Threads of the libraries that reckon: the order of float additions depends on how many there are.

They are the process's and not a learner's. torch tells at once how many it has; to ask the library that
numpy multiplies matrices with takes long, so what it was last told is kept.
"""

from __future__ import annotations

import threadpoolctl
import torch


class _Blas:
    threads = 0


def use(threads: int) -> None:
    """Let both have so many."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if _Blas.threads != threads:
        threadpoolctl.threadpool_limits(threads, user_api="blas")
        _Blas.threads = threads
