"""Modifiers that wrap any method: one file each, found by its name (see `streamlearn.method.Modifier`)."""
