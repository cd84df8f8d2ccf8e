"""What models are asked and how well they answer: problems, prompts, grading, lm-eval.

answers        the answer in a response, and whether it is the gold one
contamination  text that prompts share with evaluation sets
data_files     the files of public sets: found, hashed, read
definitions/   lm-eval's task files, and the Python that they name
grader         answers compared in processes that can be killed
maths_sets     the public sets by name, and the one place that downloads them
prompts        a prompt, what a set of them promises, the embedded set
prompt_file    a file's rows as prompts
prompt_sets    what `--prompts` and `--decontaminate` name
protocol       how a model is asked each task
responses      prompts to responses, every decoding setting explicit
evaluate       the only file that imports lm-eval
results        what a model did on a task
"""
