"""The first form of the library, for the houses that still use it; it goes when the last one has moved."""
