"""Networks: the builders, and a MODEL string to a network. Nothing is imported here, so that listing stays quick."""
