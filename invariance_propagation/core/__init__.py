"""The method's mathematics: functions of arrays that need only JAX and NumPy."""
