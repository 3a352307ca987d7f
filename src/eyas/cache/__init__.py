"""The sparse teacher cache."""
