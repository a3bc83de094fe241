"""Corpora, text, tokenizer, audio and batches; may import config, runtime and what they may."""
