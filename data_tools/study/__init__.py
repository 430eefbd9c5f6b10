"""The study of training sizes: a JSON file in, one trained and scored network a cell out."""
