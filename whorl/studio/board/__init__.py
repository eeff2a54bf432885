"""The leaderboard: ratings with their intervals, who beat whom, how it moved, and how little it hangs on."""
