"""The command line: arguments, help, running a command; may import everything, a command by its name."""
