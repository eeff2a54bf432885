"""Battles, votes and ratings: who is better, how sure that is, and what the votes teach."""
