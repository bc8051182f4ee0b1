"""Stream a continuation over gRPC, then show that drafting changed its speed and not its words."""

import os

from lookahead import Client

PROMPT = "red green blue, red green blue, red green"

with Client(os.environ.get("LOOKAHEAD_ADDRESS", "127.0.0.1:50051")) as client:
    stream = client.generate(PROMPT, max_tokens=48)
    for text in stream:
        print(text, end="", flush=True)
    result = stream.result
    print(f"\n{result.tokens_per_step:.1f} tokens per step, {result.tokens_per_second:.0f}/s")

    plain = client.generate(PROMPT, max_tokens=48, speculation="off").wait()
    print("the same words without drafts:", plain.token_ids == result.token_ids)
