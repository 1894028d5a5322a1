"""Who runs when: requests, slots, scheduler, runner, the engine process and its client.

Token ids in, token ids out. Knows no text and no HTTP.
"""
