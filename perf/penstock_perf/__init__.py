"""Runs the measuring suites and shows what they found."""
