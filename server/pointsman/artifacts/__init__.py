"""Model files by address and sha256 to verified local paths. Knows nothing of what the files are for."""
