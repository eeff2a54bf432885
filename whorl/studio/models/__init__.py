"""The models people may talk to: where they are, whether they are well, and their replies."""
