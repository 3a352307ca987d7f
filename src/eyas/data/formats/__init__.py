"""One file a data format: from its files to records."""
