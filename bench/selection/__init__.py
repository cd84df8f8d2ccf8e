"""Signals → scores → exactly the budgeted tokens.

signals         TokenSignals: what a selector may read
formulas        how each signal is computed from two chunks of logits
guard           what a rule may not do while it scores
population      quantiles, ranks and normalisations over the sampled tokens
selector        a rule with its parameters bound, and its memory
registry        `@selector`, and a rule by name, module or file
grammar         the text of an expression to its tree
expression      the tree to one selector
combinations    what the words of an expression compute
budget          scores to the tokens that are kept
contract        what every selector owes
contract_batch  the batch that it is checked on
"""
