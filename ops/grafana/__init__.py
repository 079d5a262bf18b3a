"""Grafana's dashboards as code: `python -m ops.grafana` writes the JSON files, which are checked in.

A panel says what is asked, what it means and in which unit (`spec`); `draw` decides how it looks.
"""
