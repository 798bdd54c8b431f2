"""A program that keeps one file open and writes a line of 9 bytes at a time, with fsync.

It says each step with its time in nanoseconds, and after an error it opens anew.
usage: file_open.py PATH
"""
import os
import sys
import time


def say(*words):
    print(time.time_ns(), *words, flush=True)


written = 0
while True:
    try:
        f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
        say("open")
        while True:
            os.pwrite(f, b"%08d\n" % (written + 1), written * 9)
            os.fsync(f)
            written += 1
            say("wrote", written)
            time.sleep(0.05)
    except OSError as error:
        say("error", error.strerror)
        try:
            os.close(f)
        except (NameError, OSError):
            pass
        time.sleep(0.1)
