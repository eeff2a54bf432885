"""Two unnamed models side by side, votes on them, and the board that the votes keep in motion."""
