"""Made what vectors.json has of OpenPGP: python -m tests.data.make_openpgp makes other keys, and all of it anew.

Alice's and Bob's test keys, her signature under a request, and one message of hers sealed to both of them, by gpg
under a clock that stands in the past, so that no test machine takes them for something from the future.
"""

import json
from collections.abc import Iterator

from tests.data.make_vectors import HERE, WHEN, open_request, sealed_text
from tests.support.gpg import GpgHome, gpg_home

PKESK = 1  # the packet's type, RFC 9580 §5.1
MADE = WHEN.replace(day=1)
PEOPLE = {"alice": "Alice Test Key <alice@alpha.example>", "bob": "Bob Test Key <bob@beta.example>"}


def pkesk_ends(data: bytes) -> Iterator[int]:
    """Yield where each session key packet at the beginning ends; gpg gives them old headers (RFC 9580 §4.2.2)."""
    at = 0
    while (data[at] & 0x3C) >> 2 == PKESK and not data[at] & 0x40:
        octets = 1 << (data[at] & 3)
        at += 1 + octets + int.from_bytes(data[at + 1 : at + 1 + octets], "big")
        yield at


def main() -> None:
    """Write tests/data/keys and tests/data/openpgp."""
    keys, made = HERE / "keys", HERE / "openpgp"
    for directory in (keys, made):
        directory.mkdir(exist_ok=True)
    with gpg_home() as home:
        fingerprints = {name: _generate(home, user_id) for name, user_id in PEOPLE.items()}
        for name, fingerprint in fingerprints.items():
            (keys / f"{name}-test-key.public.asc").write_bytes(home.run("--armor", "--export", fingerprint).stdout)
            secret = home.run("--armor", "--export-secret-keys", fingerprint).stdout
            (keys / f"{name}-test-key.secret.asc").write_bytes(secret)
        certificate = home.run("--export", fingerprints["alice"]).stdout
        request = open_request(certificate, fingerprints["alice"])
        sign = _at(WHEN.isoformat(), "-u", fingerprints["alice"], "--detach-sign")
        (made / "open.signature").write_bytes(home.run(*sign, data=request).stdout)
        (made / "alice.certificate").write_bytes(certificate)
        (made / "fingerprints.json").write_text(json.dumps(fingerprints, indent=1) + "\n")
        recipients = [option for name in ("bob", "alice") for option in ("-r", fingerprints[name])]
        seal = ["--trust-model=always", "-z", "0", "-u", fingerprints["alice"], *recipients, "--sign", "--encrypt"]
        sealed = home.run(*_at(WHEN.isoformat(), *seal), data=sealed_text(fingerprints)).stdout
    first, second = pkesk_ends(sealed)
    (made / "bob.head").write_bytes(sealed[:first])
    (made / "alice.head").write_bytes(sealed[first:second])
    (made / "post.body").write_bytes(sealed[second:])


def _at(time: str, *arguments: str) -> list[str]:
    clock = time.partition("+")[0].replace("-", "").replace(":", "")
    return [f"--faked-system-time={clock}!", *arguments]


def _generate(home: GpgHome, user_id: str) -> str:
    home.run(*_at(MADE.isoformat(), "--quick-gen-key", user_id, "ed25519", "cert,sign", "never"))
    fingerprint = home.fingerprints(user_id)[0]
    home.run(*_at(MADE.isoformat(), "--quick-add-key", fingerprint, "cv25519", "encr", "never"))
    return fingerprint


if __name__ == "__main__":
    main()
