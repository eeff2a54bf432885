"""English function words: articles, pronouns, prepositions, conjunctions, auxiliaries, common adverbs.

The list is Whorl's own; RedPajama-V2 used a longer one, so its stop-word fractions are somewhat higher.
Words are compared as written, in lower case.
"""

from __future__ import annotations

ENGLISH = frozenset(
    """
    a an the this that these those
    i me my mine myself you your yours yourself yourselves he him his himself she her hers herself
    it its itself we us our ours ourselves they them their theirs themselves one ones
    who whom whose which what whatever whoever someone somebody something anyone anybody anything
    everyone everybody everything nobody nothing none each every either neither both all any some
    such same other others another few many more most much less least several own
    about above across after against along among around as at before behind below beneath beside
    besides between beyond by despite down during except for from in inside into like near of off on
    onto out outside over past per since than through throughout to toward towards under until up
    upon via with within without
    and but or nor so yet if though although because unless whether while whereas when whenever
    where wherever why how
    be am is are was were been being have has had having do does did doing done
    can could may might must shall should will would ought cannot
    not no only very too also just even still again ever never always often already almost then there
    here now thus hence therefore however rather quite once perhaps else instead
    """.split()  # noqa: SIM905  read as prose
)
