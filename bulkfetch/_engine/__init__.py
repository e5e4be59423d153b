"""The machine: one course, all courses, into a file."""
