"""The words of the domain; imports nothing of the package."""
