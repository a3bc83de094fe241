"""Recordings as files: what a header says of their length, and what is there."""
