"""Where records come from and outputs go: one file a connector, each built from one table of options.

Of streamlearn only `streamlearn.events` and `streamlearn.codec` are imported here. Nothing is registered:
settings name a connector by an import string, such as "connectors.files:FileSource".
"""
