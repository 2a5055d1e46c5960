"""The coordinator: one authenticated WebSocket an agent; sessions and orders."""
