"""The network from waveforms to emissions: loading, speed, the loss; may import runs, data and what
they may.
"""
