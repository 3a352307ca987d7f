"""One average over all the batches whose gradients a step accumulates.

Equation 2 of Wang et al., CVPR 2019, averages over the N_p cells of the batch. The batch is that of the optimiser step:
where gradients of M micro-batches are accumulated, N_p is their sum. A step's gradient is the mean over micro-batches,
so the loss S_m / (2 n_m) of micro-batch m counts ``M * n_m / N_p`` times: the mean is then ``sum_m S_m / (2 N_p)``.
"""

from __future__ import annotations

from torch import Tensor

from eyas.nn.processes import mean_over_processes
from eyas.ops.losses import ratio


def step_shares(counts: Tensor) -> Tensor:
    """How many times the loss of each micro-batch counts.

    Args:
        counts: (M, T), n_m of M micro-batches for each of T methods, in this process. All processes must call this.

    Returns:
        (M, T) float32, with a mean of 1 over the micro-batches; 0 where nothing is counted in any of them.
    """
    everywhere = mean_over_processes(counts.float())
    return ratio(len(counts) * everywhere, everywhere.sum(dim=0))
