"""From a Trainer to a variance per layer: probes, rounds, what each layer gets, the redraw."""
