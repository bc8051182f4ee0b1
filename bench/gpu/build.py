"""A model of real shape: how long it takes to build and to set up, and what it says."""

from collections.abc import Iterator

from bench.gpu.lab import Lab
from bench.gpu.report import Note, Result
from bench.serving.figures import Figure

SECTION = "build"


def build(lab: Lab) -> Iterator[Result]:
    """Build the model that the next sections serve."""
    served = lab.served()
    model = served.model
    yield Figure(SECTION, "weights", served.num_bytes / 1e9, "GB")
    yield Figure(SECTION, "weights that a step reads", served.read_bytes / 1e9, "GB")
    yield Figure(SECTION, "building", served.build_s, "s")
    yield Figure(SECTION, "finding the form and making the cache", served.form_s, "s")
    form = f"{model.form.name}, attention {model.attention}, {model.slots.num_slots} slots"
    form += f", {model.rung.value}"
    yield Note(
        SECTION, "served", form, {"variant": model.variant, "max_context": model.max_context}
    )
    yield Note(SECTION, "bitwise", model.not_bitwise_reason or "yes")
    yield Figure(SECTION, "largest logit", served.sharpness.largest_logit, "")
    yield Figure(SECTION, "median lead of the best logit", served.sharpness.median_lead, "")
