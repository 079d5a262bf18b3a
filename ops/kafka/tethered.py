"""`python -I tethered.py PARENT PROGRAM ARGUMENT...`: becomes PROGRAM, which is killed when PARENT ends.

The kernel sends the signal when the *thread* that started this process ends: that thread must wait for it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0):
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent ended")  # before we could ask for the signal
    os.execv(sys.argv[2], sys.argv[2:])
