"""The commands: one file each, with a `run(config)`. Nobody imports a command."""
