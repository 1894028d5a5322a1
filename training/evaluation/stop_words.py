"""Words that cannot well be the last one of a LAMBADA passage (GPT-2 paper, section 3.3).

The paper filters by such a list and does not give it; this one has English function words.
"""

from __future__ import annotations

from model.tokenizer import Tokenizer

_WORDS = """
a an the this that these those
i me my mine myself you your yours yourself yourselves he him his himself she her hers herself
it its itself we us our ours ourselves they them their theirs themselves one
who whom whose which what when where why how
am is are was were be been being do does did doing done have has had having
can could may might must shall should will would ought
and but or nor so yet if then than because as while until though although unless whether
of at by for with about against between into through during before after above below to from
up down in out on off over under upon within without toward towards among around across along
behind beside beyond near since onto
again further once here there now just only very too also even still ever never always
not no all any both each few more most other another some such own same every either neither
much many less
"""
STOP_WORDS = frozenset(_WORDS.split())


def stop_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids of tokens that are a space and a whole stop word, in small letters or capitalised."""
    spelled = (f" {form}" for word in STOP_WORDS for form in (word, word.capitalize()))
    encoded = (tokenizer.encode(text) for text in spelled)
    return frozenset(ids[0] for ids in encoded if len(ids) == 1)
