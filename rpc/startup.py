"""How far a verifier has come with its start, as parts that its health service then knows."""

import enum


class Part(enum.StrEnum):
    """What a verifier needs before it serves, in the order in which it comes."""

    WEIGHTS = "weights"
    FORM = "verification-form"
    STEP_TIMES = "step-times"
