"""What every room stands on: errors, the shared nouns, files, configuration, progress, the logbook."""
