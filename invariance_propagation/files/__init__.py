"""Files of this machine: paths, atomic writes, archives of others, the user's cache."""
