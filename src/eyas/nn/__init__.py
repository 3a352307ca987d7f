"""Tools on `nn.Module`: taps, evaluation mode, BatchNorm folding, compiling."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eyas.nn.fold_batchnorm import fold_batch_norms

__all__ = ["fold_batch_norms"]


def __getattr__(name: str) -> object:
    if name in __all__:  # imports torchvision, which taps do without
        from eyas.nn import fold_batchnorm

        return getattr(fold_batchnorm, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
