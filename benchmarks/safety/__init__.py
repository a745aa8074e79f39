"""What the arm does when something goes wrong: scenarios against the controller emulator, in real processes.

The servo process drives the emulator over TCP while a script breaks something; the figures are the arm's own, from its
position in every 8 ms cycle: ``lavla bench safety --out FILE.json``. A second part ticks the executor alone and leaves
cycles out; nothing in it depends on the machine.
"""
