"""What other rules would have kept of the same tokens.

shadow           the panel of a run, as the training loop's observer
panel            many rules on one batch, compared
token_bank       a step's tokens as parquet
overlap          the log of a panel as profiles and matrices
artefacts        what conventions of published code do to masks; conventions: on one batch
artefact_batch   that batch; artefact_page: the page of what was measured
"""
