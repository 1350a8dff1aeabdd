"""The two callbacks: arguments and hooks."""
