"""Fixed contexts: does a score predict the KL that an update removes?"""
