"""Pure formulas on plain numbers: no model, no tensor, only math and numpy."""
