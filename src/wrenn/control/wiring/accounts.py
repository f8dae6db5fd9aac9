"""Builds people, their sessions, teams and mails."""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.control.account_mail import AccountMails
from wrenn.control.administration import Administration
from wrenn.control.builds import (
    Builds,
)
from wrenn.control.e2b import remove_all_of_team as remove_all_e2b_of_team
from wrenn.control.fleet import Fleet
from wrenn.control.mail import MailSender, SmtpServer
from wrenn.control.oauth import ProviderClient, SignIn, Tickets, providers_of
from wrenn.control.password_reset import PasswordReset
from wrenn.control.profile import Profiles
from wrenn.control.registries import RegistryCredentials
from wrenn.control.sessions import LinkLogin, PasswordLogin, Sessions
from wrenn.control.teams import Invitations, TeamDeletion, Teams
from wrenn.control.throttle import Throttle
from wrenn.control.users import Passwords

from .auth import AuthParts
from .base import Base
from .sandboxes import SandboxParts


def build_mail_sender(base: Base) -> MailSender | None:
    """Return what sends mails, or None where no mail server is set."""
    mail = base.settings.mail
    return None if mail is None else MailSender(base.database, SmtpServer(mail), mail.sender)


@dataclass(frozen=True, slots=True)
class AccountParts:
    """People, their sessions, teams and invitations."""

    sessions: Sessions
    password_login: PasswordLogin
    link_login: LinkLogin
    sign_in: SignIn
    profiles: Profiles
    password_reset: PasswordReset
    teams: Teams
    invitations: Invitations
    administration: Administration


def build_accounts(
    base: Base,
    auth: AuthParts,
    sandboxes: SandboxParts,
    fleet_service: Fleet,
    builds: Builds,
    *,
    registry_credentials: RegistryCredentials,
    throttle: Throttle,
    passwords: Passwords,
    provider_client: ProviderClient,
) -> AccountParts:
    """Build what serves the endpoints of accounts. A team that is deleted takes along what the other features have of it."""
    settings, database = base.settings, base.database
    mails = AccountMails(throttle, None if settings.mail is None else settings.mail.public_url)
    sessions = Sessions(
        database=database, tokens=auth.tokens, secret=auth.secret, life_s=settings.accounts.session_life_s
    )
    # What a team has belongs to features that `teams` does not know.
    team_deletion = TeamDeletion(
        removals=(
            fleet_service.remove_all,
            sandboxes.deletions.remove_all,
            sandboxes.snapshots.remove_all,
            builds.remove_all,
            registry_credentials.remove_all,
            remove_all_e2b_of_team,
        ),
        wake=sandboxes.deletions.wake,
    )
    return AccountParts(
        sessions=sessions,
        password_login=PasswordLogin(
            database=database,
            passwords=passwords,
            sessions=sessions,
            throttle=throttle,
            mails=mails,
            signup_open=settings.accounts.signup_open,
        ),
        link_login=LinkLogin(database=database, sessions=sessions, throttle=throttle),
        sign_in=SignIn(
            database=database,
            sessions=sessions,
            authenticator=auth.authenticator,
            providers=providers_of(settings.oauth, provider_client, base.clock),
            tickets=Tickets(auth.secret, base.clock),
            settings=settings.oauth,
            accounts=settings.accounts,
        ),
        profiles=Profiles(
            database=database,
            passwords=passwords,
            sessions=sessions,
            throttle=throttle,
            mails=mails,
            team_deletion=team_deletion,
        ),
        password_reset=PasswordReset(database=database, passwords=passwords, throttle=throttle, mails=mails),
        teams=Teams(
            database=database,
            throttle=throttle,
            team_deletion=team_deletion,
            teams_per_user=settings.accounts.teams_per_user,
            require_owner_has_capacity=sandboxes.capacity.require_owner_has_capacity,
        ),
        invitations=Invitations(database=database, throttle=throttle, mails=mails),
        administration=Administration(
            database=database, team_deletion=team_deletion, count_sandboxes=sandboxes.lookup.count
        ),
    )
