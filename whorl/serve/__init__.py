"""The engine that serves a `Decoder` to many at once, and the OpenAI API in front of it."""
