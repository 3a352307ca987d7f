"""Several arms over several seeds, and what their differences say."""
