"""The stores room."""
