"""Brings docker-compose.yml up for real and checks it from outside: `python -m ops.compose check`.

Needs root, Debian's packages docker.io, docker-compose and debootstrap, and package registries; of images it
pulls none, it makes stand-ins.
"""
