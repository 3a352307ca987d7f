"""Tools on `nn.Module`: taps, evaluation mode, BatchNorm folding, compiling."""
