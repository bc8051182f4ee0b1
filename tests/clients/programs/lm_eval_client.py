"""EleutherAI's evaluation harness, on two small tasks of our own."""

import json
import math
from pathlib import Path

from checks import BASE_URL, MODEL, MODEL_FOLDER, check, run
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

CAPITALS = {"France": "Paris", "Italy": "Rome", "Germany": "Berlin", "Spain": "Madrid"}
ROWS = [
    {
        "question": f"The capital of {country} is",
        "answer": city,
        "choices": [f" {city}", " a xylophone"],
    }
    for country, city in CAPITALS.items()
]
# YAML reads a file of settings written as JSON, too.
COMMON = {"dataset_path": "json", "test_split": "test", "doc_to_text": "{{question}}"}
GENERATION = {
    "output_type": "generate_until",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["."], "max_gen_toks": 8},
    "filter_list": [
        {
            "name": "named",
            "filter": [
                {"function": "regex", "regex_pattern": r"(\w+)"},
                {"function": "take_first"},
            ],
        }
    ],
    "metric_list": [{"metric": "exact_match"}],
}
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": 0,
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}],
}


def evaluate(name: str, kind: dict) -> dict:
    folder = Path("tasks")
    folder.mkdir(exist_ok=True)
    data = folder.absolute() / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    files = {"dataset_kwargs": {"data_files": {"test": str(data)}}}
    (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **COMMON, **files, **kind}))
    return simple_evaluate(
        model="local-completions",
        model_args={
            "model": MODEL,
            "base_url": f"{BASE_URL}/completions",
            "tokenizer": MODEL_FOLDER,
            "num_concurrent": 2,
            "max_length": 2048,
        },
        tasks=[name],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )


@check("generation")
def generation() -> None:
    found = evaluate("capitals_written", GENERATION)
    assert found["results"]["capitals_written"]["exact_match,named"] >= 0.5, found["results"]


@check("log-likelihood")
def log_likelihood() -> None:
    found = evaluate("capitals_chosen", CHOICE)
    assert found["results"]["capitals_chosen"]["acc,none"] == 1.0, found["results"]
    responses = [sample["resps"] for sample in found["samples"]["capitals_chosen"]]
    assert all(math.isfinite(float(score[0][0])) for pair in responses for score in pair)


run()
