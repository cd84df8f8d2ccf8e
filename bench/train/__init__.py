"""Rollout, signals, score, select, loss, step.

loop             the algorithm: read this first
setup            models, optimizer, schedule and rule of a run
rollout          the student's samples; decode: its sampling loop; vllm_rollout: through vLLM
hidden_states    the backbone over a rollout, in micro-batches
scoring          signals of every sampled token
extra_signals    what a rule may ask for beyond the two models' logits
loss             the gradient pass, and the one denominator
objectives       the losses of a token; logit_gradients: their size in closed form
metrics          what a step did and cost
checkpoints      whole ones on disk; training_state: what they hold of training
placement        memory given up for time
"""
