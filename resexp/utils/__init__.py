"""Files, folders, signals and cores: what knows nothing of nets."""
