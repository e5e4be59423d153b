"""When the next request may start, and how many at once."""
