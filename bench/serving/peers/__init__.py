"""Our stack beside other servers, on one machine, with the same weights and the same prompts."""
