"""OpenAI's client, pointed at the gateway: a whole answer, a stream, and a refusal."""

import os

from openai import BadRequestError, OpenAI

URL = os.environ.get("LOOKAHEAD_URL", "http://127.0.0.1:8000")
client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("LOOKAHEAD_API_KEY", "none"))
model = client.models.list().data[0].id

answer = client.completions.create(
    model=model, prompt="The lighthouse was built in", max_tokens=16, temperature=0.7, seed=1, n=2
)
for choice in answer.choices:
    print(f"{choice.index}: {choice.text!r}")

stream = client.completions.create(
    model=model,
    prompt="red green blue, red green blue, red",
    max_tokens=32,
    temperature=0,
    stream=True,
    stream_options={"include_usage": True},
)
for event in stream:
    for choice in event.choices:
        print(choice.text, end="", flush=True)
    if event.usage:
        drafting = event.model_extra["lookahead"]  # what OpenAI's API does not have
        print(f"\n{event.usage.completion_tokens} tokens in {drafting['num_steps']} steps")

try:
    client.completions.create(model=model, prompt="a", temperature=-1)
except BadRequestError as error:
    print(f"refused: {error.body['message']}")
