"""From a trained detector to a file that other runtimes read."""
