"""`train`: one training run."""
