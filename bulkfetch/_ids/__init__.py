"""Course ids in: files, pipes, each id once."""
