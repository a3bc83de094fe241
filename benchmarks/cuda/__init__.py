"""What only a real GPU can tell: is it right there, and how fast? `python -m benchmarks.cuda`."""
