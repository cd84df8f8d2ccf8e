"""Rows, shadow logs, token banks and diagnostic records as one HTML page that needs nothing else.

build        what is asked for -> the page
diagnosed    diagnostic records -> data
html         data and assets -> the page's bytes
one_run      a run folder -> data: its record, its curve, its answers
reported     published numbers beside ours -> data
results      tables -> data: claims, leaderboard, curves, dials
sample       some responses of runs, for the published page
tokens       token banks -> data: responses token by token, and what every rule keeps of them
vendor       the libraries in assets/vendor, from the npm registry
assets/      the page's template, style and scripts; vendor/ holds libraries of the npm registry
"""
