"""--check: try everything that serving needs, and say all that is wrong."""

import click

from services.pop3d.accounts import accounts_file, load_accounts
from services.pop3d.listening import bind
from services.pop3d.locations import parse_location
from services.pop3d.settings import Pop3d
from services.pop3d.system import people
from services.pop3d.system.pam import Pam, is_configured
from services.pop3d.tls import load_certificate
from stubmail.cli import parse_listen
from stubmail.errors import Exit, PermanentError
from stubmail.settings import ConfigError


def try_everything(service: Pop3d) -> None:
    """Read the accounts, look at every maildrop, load the certificate, and bind every address.

    Prints what is right, and what is doubtful, on standard output. Raises the first Exit when it is all that is wrong;
    when more is wrong, one with its status and all the sentences.
    """
    errors: list[Exit] = []
    for part in (_maildrops, _certificate, _addresses):
        try:
            click.echo(part(service))
        except Exit as error:
            errors.append(error)
    if service.warning:
        click.echo(f"warning: {service.warning}")
    if errors:
        raise Exit(errors[0].status, "; ".join(error.text for error in errors))


def _maildrops(service: Pop3d) -> str:
    if service.system_users:
        return _system(service)
    wrong, right = [], 0
    for user in load_accounts(service):
        if not user.maildrop or user.maildrop.startswith("pipe:"):
            continue  # an account of other services
        try:
            parse_location(user.maildrop).check()
            right += 1
        except PermanentError as error:
            wrong.append(f"user {user.name}: {error.text}")
    if wrong:
        raise ConfigError("; ".join(wrong))
    if not right:
        raise ConfigError(f"{accounts_file(service)}: no account has a maildrop")
    return f"{accounts_file(service)}: {right} maildrop{'' if right == 1 else 's'}, all to be opened"


def _system(service: Pop3d) -> str:
    """Try what system users need; who asks need not be root, who serves must."""
    Pam(service.pam_service)
    people.login_user(service.login_user)
    people.group(service.mail_group)
    if not is_configured(service.pam_service):
        raise ConfigError(f"there is no /etc/pam.d/{service.pam_service}: nobody, or anybody, can log in")
    names = [f"NAME@{domain}" for domain in sorted(service.domains_of_users)]
    also = f"; {' and '.join(names)} {'is' if len(names) == 1 else 'are'} NAME" if names else ""
    return f"PAM service {service.pam_service}: there; mail at {service.system_maildrop}{also}"


def _certificate(service: Pop3d) -> str:
    if load_certificate(service.tls_cert, service.tls_key) is None:
        return "no certificate: neither STLS nor POP3S"
    return f"{service.tls_cert}: fits its key"


def _addresses(service: Pop3d) -> str:
    wanted = (service.listen, 110), (service.tls_listen, 995), (service.admin_listen, None)
    addresses = [each for each in wanted if each[0]]
    for text, port in addresses:
        for bound in bind(*parse_listen(text, port)):
            bound.close()
    return f"{' and '.join(text for text, _ in addresses)}: free"
