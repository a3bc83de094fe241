"""From a model and a split to hypotheses and scores; may import model, decoding, sweeps and what they may."""
