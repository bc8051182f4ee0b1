"""Small models, tokenizers and engines."""
