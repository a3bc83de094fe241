"""The commands, one file or folder each; none imports another; may import everything but cli."""
