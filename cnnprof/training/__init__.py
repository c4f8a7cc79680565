"""What a network learns, and whether: data, the trainer, sanity checks. Knows nothing of models but nn.Module."""
