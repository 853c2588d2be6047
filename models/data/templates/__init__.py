"""Chat templates in Jinja, the language that Hugging Face's tokenizers use for them."""
