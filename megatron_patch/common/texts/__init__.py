"""The catalogue of texts: one file a language, by code."""
