"""What is measured while something trains: moments of the weights, sample by sample."""
