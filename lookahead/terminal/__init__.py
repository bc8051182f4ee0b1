"""What terminal commands share: options, colours, sample prompts."""
