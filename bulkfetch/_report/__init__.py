"""A finished or unfinished output told as a page or as JSON."""
