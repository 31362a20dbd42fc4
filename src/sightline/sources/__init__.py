"""The sources room: where pictures come from, as items that are read later."""
