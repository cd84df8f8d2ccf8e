"""What models are asked and how well they answer: problems, prompts, grading, lm-eval.

answers        the answer that a response states
contamination  text that prompts share with evaluation sets
data_files     the files of public sets: found, hashed, read
definitions/   lm-eval's task files, and the Python that they name
equality       is an answer the gold one: by notation, units, plain_numbers and symbolic
grader         answers compared in processes that can be killed
maths_sets     the public sets by name, and the one place that downloads them
prompts        a prompt, what a set of them promises, the embedded set
prompt_file    a file's rows as prompts
prompt_sets    what `--prompts` and `--decontaminate` name
protocol       how a model is asked each task
row_fields     the question and the gold answer of a row of anybody's file
responses      prompts to responses, every decoding setting explicit
evaluate       the only file that imports lm-eval
results        what a model did on a task
"""
