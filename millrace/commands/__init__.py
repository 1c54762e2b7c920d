"""The commands of `millrace`, a module for each kind of work; loaded only when called, for a quick --help."""
