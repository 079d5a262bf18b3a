"""Learning methods: one file each, found by its name. To add one, write a file; the contract tests find it.

A file defines one subclass of `streamlearn.method.Method`. Nothing is registered anywhere.
"""
