"""What shapes alone tell of a network. What is needed of a model is that it is an nn.Module."""
