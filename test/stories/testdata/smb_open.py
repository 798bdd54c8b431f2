"""A client of Samba that keeps one file open for itself alone and writes a line of 9 bytes at a time,
or reads the first line again and again.

It says each step with its time in nanoseconds, and after an error it connects and opens anew.
usage: smb_open.py SMB.CONF CREDENTIALS ADDRESS SHARE NAME [read]
"""
import sys
import time

from samba import NTSTATUSError, credentials, param
from samba.samba3 import libsmb_samba_internal as smb
from samba.samba3 import param as s3param

conf, secret, address, share, name = sys.argv[1:6]
reads = sys.argv[6:] == ["read"]
READ_WRITE, NOBODY_ELSE, OPEN_OR_MAKE = 0x0012019F, 0, 3  # MS-SMB2 2.2.13

files, loaded = s3param.get_context(), param.LoadParm()
files.load(conf)
loaded.load(conf)
who = credentials.Credentials()
who.guess(loaded)
who.parse_file(secret)
who.set_kerberos_state(credentials.DONT_USE_KERBEROS)


def say(*words):
    print(time.time_ns(), *words, flush=True)


written = 0
while True:
    try:
        connection = smb.Conn(address, share, files, who)
        handle = connection.create(name, DesiredAccess=READ_WRITE, ShareAccess=NOBODY_ELSE, CreateDisposition=OPEN_OR_MAKE)
        say("open")
        while reads:
            say("read", len(connection.read(handle, 0, 9)))
            time.sleep(0.05)
        while True:
            connection.write(handle, b"%08d\n" % (written + 1), written * 9)
            written += 1
            say("wrote", written)
            time.sleep(0.05)
    except NTSTATUSError as error:
        say("error", hex(error.args[0]), error.args[1])
        time.sleep(0.1)
