"""Commands of the terminal: services, generate, chat, check, demo."""
