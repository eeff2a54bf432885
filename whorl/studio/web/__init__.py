"""What every page stands on: the shell's templates, sessions, guards, streams, markdown."""
