"""What only a run can tell: times, memory, and where they go."""
