"""Pretrained checkpoints: files, weights, vocabulary, torchaudio bundles, the built-in one."""
