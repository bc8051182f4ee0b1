"""What a model's makers recommend for sampling, as its generation_config.json says it."""

from pathlib import Path

from transformers import GenerationConfig

# The fields that vLLM takes, too; the contract calls them the same.
FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def recommended_sampling(name: str) -> dict[str, float]:
    """The values by field; none where there is no such file. For a .gguf file: a neighbour's."""
    path = Path(name)
    folder = str(path.parent) if path.suffix == ".gguf" else name
    try:
        config = GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError):
        return {}
    values = {field: getattr(config, field, None) for field in FIELDS}
    return {f: v for f, v in values.items() if isinstance(v, int | float)}
