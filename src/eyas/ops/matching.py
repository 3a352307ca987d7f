"""Matching of two sets one to one, on the host."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor


def match(cost: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs of the least total cost (the Hungarian method), each row and each column at most once.

    Args:
        cost: (..., n, m), on any device, which is waited for. What is not finite is chosen last.

    Returns:
        (..., k) int64 rows, ascending, and the column of each; k is the smaller of n and m. On the device of ``cost``.
    """
    from scipy.optimize import linear_sum_assignment

    largest = torch.finfo(torch.float32).max
    known = cost.detach().float().nan_to_num(nan=largest, posinf=largest, neginf=largest).cpu()
    matrices = known.reshape(prod(cost.shape[:-2]), *cost.shape[-2:]).numpy()
    pairs = [linear_sum_assignment(matrix) for matrix in matrices]
    shape = (2, *cost.shape[:-2], min(cost.shape[-2:]))
    chosen = np.stack([np.stack(pair) for pair in pairs], axis=1) if pairs else np.zeros(shape, dtype=np.int64)
    rows, columns = torch.from_numpy(chosen.reshape(shape)).to(cost.device)
    return rows, columns
