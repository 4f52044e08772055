"""Several runs as one experiment: a grid or a list of settings, run side by side, and gone on with as a whole."""
