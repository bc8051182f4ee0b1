"""Editing a file: what stays the same is predicted, and is verified in long runs."""

import os

from openai import OpenAI

URL = os.environ.get("LOOKAHEAD_URL", "http://127.0.0.1:8000")
client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("LOOKAHEAD_API_KEY", "none"))
model = client.models.list().data[0].id
FILE = "def area(w, h):\n    return w * h\n\n\ndef edge(w, h):\n    return 2 * (w + h)\n"
PROMPT = f"The file:\n{FILE}\nThe file with w renamed to width:\n"


def edit(**extra: object) -> tuple[str, int]:
    """Return the text and the number of decoding steps that it took."""
    answer = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=48, temperature=0, extra_body=extra
    )
    return answer.choices[0].text, answer.model_extra["lookahead"]["num_steps"]


plainly, plain_steps = edit(lookahead={"mode": "off", "learn": "none"})
text, steps = edit(
    prediction={"type": "content", "content": FILE.replace("w", "width")},
    lookahead={"learn": "none"},
)
print(text)
print(f"{steps} steps with the prediction, {plain_steps} without drafts")
print("the same text:", text == plainly)
