"""The network from waveforms to emissions, and its loss; may import runs, data and what they may."""
