"""The method's mathematics: arrays in, arrays out, JAX and NumPy alone."""
