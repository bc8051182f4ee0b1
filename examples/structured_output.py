"""Answers that are JSON of a given form, whatever the model would rather say."""

import json
import os

from openai import OpenAI

URL = os.environ.get("LOOKAHEAD_URL", "http://127.0.0.1:8000")
client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("LOOKAHEAD_API_KEY", "none"))
TICKET = {
    "type": "object",
    "properties": {
        "severity": {"enum": ["low", "medium", "high"]},
        "urgent": {"type": "boolean"},
        "floor": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["severity", "urgent", "floor"],
    "additionalProperties": False,
}

answer = client.completions.create(
    model=client.models.list().data[0].id,
    prompt="The lift on floor 7 is stuck with people inside.\nAs JSON: ",
    max_tokens=64,
    temperature=0,
    # Chat completions take response_format as an argument; so does this server for completions.
    extra_body={
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "ticket", "schema": TICKET},
        }
    },
)
ticket = json.loads(answer.choices[0].text)
print(ticket["severity"], ticket["urgent"], ticket["floor"])
