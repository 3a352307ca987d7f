"""One module per data format, from its files to records."""
