"""Fixed contexts: does a score predict the KL that an update removes?

run_diagnostic       bank, updates, gains, analyses: the way in
diagnosis            its settings
context_bank         contexts on disk, as read; build_bank: as made
updates              updates of the student, and what they leave of the KL
measured             the gain of each context
compatibility        proxies of the teacher's mass on the student's top K
orderings            rank correlations and matched top-N; regression, contrasts: further analyses
bootstrap            intervals over prompts and update seeds
analysis             every statistic of one bank; record: with intervals and verdicts
record_files         the record, its page and its figures on disk
page                 the record as Markdown, with estimates and fit_sheets
figures              the record's figures, with fit_figures and figure_marks
against_leaderboard  gain per kept token against accuracy, over rules
"""
