"""Between token ids and text: tokenizer, detokenizer, stop strings."""
