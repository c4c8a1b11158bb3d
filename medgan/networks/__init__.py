"""One architecture a file; :mod:`medgan.registry` finds them by name."""
