"""What a model's makers recommend for sampling, as its generation_config.json says it."""

from transformers import GenerationConfig

# The fields that vLLM takes, too; the contract calls them the same.
FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def recommended_sampling(name: str) -> dict[str, float]:
    """The values by field; none where there is no such file."""
    try:
        config = GenerationConfig.from_pretrained(name)
    except (OSError, ValueError):
        return {}
    values = {field: getattr(config, field, None) for field in FIELDS}
    return {f: v for f, v in values.items() if isinstance(v, int | float)}
