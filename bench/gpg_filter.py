"""What Postfix calls for each message in the benchmark of the gateway: encrypts it with gpg and gives it back.

As such filters are: one process a message, which starts gpg once and hands the result to a second listener of
Postfix, behind which it is queued. It needs nothing beside the standard library; the message is on standard input.

python gpg_filter.py GNUPGHOME PORT SENDER RECIPIENT
"""

import os
import smtplib
import subprocess
import sys


def main(home: str, port: str, sender: str, recipient: str) -> int:
    """Sign and encrypt the body, keep the header, and pass the message on."""
    header, _, body = sys.stdin.buffer.read().partition(b"\n\n")
    command = ["gpg", "--homedir", home, "--batch", "--quiet", "--no-tty", "--trust-model", "always", "--armor"]
    command += ["--sign", "--local-user", sender, "--encrypt", "--recipient", recipient]
    sealed = subprocess.run(command, input=body, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    if sealed.returncode != 0:
        return os.EX_TEMPFAIL
    with smtplib.SMTP("127.0.0.1", int(port)) as client:
        client.sendmail(sender, recipient, header + b"\n\n" + sealed.stdout)
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
