"""Makes every part from the config; may import training, evaluation, inference and what they may."""
