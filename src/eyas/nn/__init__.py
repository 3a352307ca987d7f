"""Tools on `nn.Module`: taps, evaluation mode, BatchNorm folding, compiling."""

from eyas.nn.fold_batchnorm import fold_batch_norms

__all__ = ["fold_batch_norms"]
