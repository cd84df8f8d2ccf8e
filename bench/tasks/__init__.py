"""What models are asked and how well they answer: problems, prompts, grading, lm-eval."""
