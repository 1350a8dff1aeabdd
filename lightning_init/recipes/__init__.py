"""V(W) that is known already: what an earlier run found, on disk."""
