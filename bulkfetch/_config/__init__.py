"""Settings: what each is, where it comes from, what it may be."""
