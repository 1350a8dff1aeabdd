"""What was found, told: report, TensorBoard, figures, recipe file."""
