"""What all stand on: settings, errors, records, randomness, statistics, files, processes."""
