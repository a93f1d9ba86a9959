"""Models that read language: sentence embeddings, and an LLM where one is configured."""
