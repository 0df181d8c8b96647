"""How a run stops and goes on: the same one, or with other data, epochs or weights."""
