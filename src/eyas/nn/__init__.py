"""Tools on `nn.Module`: taps, evaluation mode, folded BatchNorm, compiling."""
