"""Signals -> scores -> exactly the budgeted tokens."""
