"""OpenAI's API over engines: one room for each of its parts, `app` puts them together."""
