"""Result rows → tables, verdicts, figures.

rows            rows.jsonl and tuning.json as read, and regimes
table           a table as data: comparisons, lines
leaderboard     rows to tables
table_sheets    a table, a tuning and the README's short table as text
claims          the claims of the sweeps, each by its own comparison; predictions
published       what papers reported, each beside its own source's full row
power           the smallest effects that so many seeds find, as simulated
ranks           average ranks over pairs
families        tables that differ in K, or along a dial of pairs
rates           arms over learning rates: swings, own bests, verdicts that turn
fronts          searches with several objectives: of every rule the points that nothing beats
sheet           one table as text, Markdown or LaTeX
pages           the documents of results/
figures         a table's figures; family_figures, cost_figures: those of several
style           the house style of every figure
versions        which of several rows count: versions of rules and tasks, repeats
two_runs        two checkpoints on the same items
"""
