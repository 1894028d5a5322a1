"""The network and its contract: configuration, tokenizer, decoder, slot cache, sampler.

No threads, no processes, no HTTP. ``config``, ``tokenizer`` and ``tasks`` import no torch,
because the API process uses them.

Shapes are written with one alphabet everywhere::

    B  rows of a step            N  tokens of a step over all rows
    T  positions of a sequence   C  channels (n_embd)
    H  attention heads           D  channels per head
    L  layers                    S  slots of the cache
    V  vocabulary
"""
