"""The target model: loading, forward pass, attention, measured step times."""
