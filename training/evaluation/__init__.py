"""How good a checkpoint is: perplexity, the last word, the likelier answer. Imports no engine.

A :class:`~training.evaluation.likelihood.Scorer` says how likely tokens are; whoever calls brings
one, so that what is measured is what is served.
"""
