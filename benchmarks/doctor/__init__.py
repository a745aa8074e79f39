"""``lavla doctor``: what is wrong with this machine, its arm and its cameras, and what mends it.

``checks.py`` and ``chain.py`` judge facts and are pure; ``probes.py`` and ``live.py`` look for the facts.
"""
