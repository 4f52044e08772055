"""``killed_run.py PHASE NTH COMMAND...``: the command, ended by SIGKILL when PHASE is met for the NTH time.

Phases: ``train`` (a block of iterations is computed, nothing of it written), ``row`` (in the middle of the rows of a
block), ``evaluate``, any phase of `penstock.storage._durable`, and ``random``, which kills NTH milliseconds after the
first iteration began, wherever the run is then.
"""

import os
import signal
import sys
import threading

from penstock.cli.main import main
from penstock.storage import _durable

phase, nth, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
seen = []


def met(name):
    if name == phase:
        seen.append(name)
        if len(seen) == nth:
            os.kill(os.getpid(), signal.SIGKILL)


def watch(owner, method, name, before):
    original = getattr(owner, method)

    def watched(self, *arguments):
        if before:
            met(name)
        result = original(self, *arguments)
        if not before:
            met(name)
        return result

    setattr(owner, method, watched)


_durable._phase = met

from penstock.training import loop, record, running  # noqa: E402

watch(record.Record, "look_for_faults", "train", before=True)
watch(loop._Training, "_evaluate", "evaluate", before=True)
watch(record.MetricsLog, "write", "row", before=False)

if phase == "random":
    compiled = running.FunctionalDriver.compile

    def compile_then_wait(self, *arguments):
        compiled(self, *arguments)
        timer = threading.Timer(nth / 1000, lambda: os.kill(os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()

    running.FunctionalDriver.compile = compile_then_wait

main(command)
