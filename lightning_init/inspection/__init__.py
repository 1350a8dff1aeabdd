"""What a model is made of, read without changing it."""
