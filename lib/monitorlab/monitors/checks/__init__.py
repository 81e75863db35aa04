"""Programs that look at a response: code, gamed checks, arithmetic."""
