"""The commands, a file or a folder each, with a `run(config)`; none imports another; may import all
but cli.
"""
