"""What all stand on: settings, errors, records, randomness, statistics, files, processes.

arrays         tensors and columns on disk
claims         what a sweep is run to test, and the day it was named
clock          seconds on a device that works ahead of the program
config         Experiment, Runtime, and the objectives with their parameters
fields         frozen settings that say in one line what they do not accept
files          files and folders written whole, digests of values
keep_schedule  the budget over the steps of a run
logits         hidden states to logits to log-probabilities, a chunk at a time
moderated      the test behind the verdicts: seed variances moderated over the arms of a table
parent         a worker that outlives no parent
plain_state    nested tensors and numbers as safetensors and JSON: nothing in them can run
presets        named settings
processes      what the processes of one run do and share
provenance     revision, versions, memory, and the digest of code that caches are kept by
randomness     every random number is a hash of what it is for
records        the run folder and its record
result_rows    the file of result rows
sampling       the ids that both models share, and how one of them is drawn
sums           checksums of a folder's files
"""
