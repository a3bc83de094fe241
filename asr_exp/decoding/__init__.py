"""Decoders, beam search, n-gram language models, alignment; may import runs, data and what they may."""
