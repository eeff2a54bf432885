"""The runs' pages: what was trained, live curves while it goes on, several beside each other."""
