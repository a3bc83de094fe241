"""Keys and their checks, composing with Hydra, plugins; may import core and scoring."""
