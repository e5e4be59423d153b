"""`python -m bulkfetch` is the `bulkfetch` command."""

from bulkfetch.cli import main

if __name__ == "__main__":
    main()
