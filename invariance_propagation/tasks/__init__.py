"""What can be done with a config or a run besides training and evaluating it."""
