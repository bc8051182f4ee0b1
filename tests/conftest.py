"""Settings for all tests."""

import torch

# Small models run slower on several threads, and much slower when other processes compete.
torch.set_num_threads(1)
