"""Tools for tests and drills: simulator, clusters of real processes, load."""
