"""The training loop and its parts; may import model, decoding, sweeps and what they may."""
