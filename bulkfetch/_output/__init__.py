"""Rows on disk, exactly once: journal, file, pipe, and reading them back."""
