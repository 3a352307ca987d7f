"""ShuffleDet, the small one-stage detector of the paper."""
