"""What other rules would have kept of the same tokens."""
