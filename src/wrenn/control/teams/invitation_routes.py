"""Endpoints on invitations. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from wrenn.control.account_mail import messages
from wrenn.control.auth import AccountOf, MemberOf
from wrenn.control.http import Browsers, refusals, service, service_of
from wrenn.control.teams.invitations import Invitations
from wrenn.control.teams.types import AcceptInvitation, AddMember, InvitationView, NewInvitation, TeamView
from wrenn.control.teams.views import invitation_json, team_json

team_router = APIRouter(tags=["teams"])
router = APIRouter(tags=["teams"])


Service = Annotated[Invitations, service(Invitations)]


@team_router.post(
    "/{team_id}/members", status_code=202, response_model=NewInvitation, responses=refusals(403, 404, 409)
)
async def invite_member(
    request: Request, team_id: str, body: AddMember, member: MemberOf, invitations: Service
) -> Response:
    """Invite the user with this e-mail address. For admins and the owner.

    Nobody becomes a member without accepting. Where mail is set up the link goes to the address (`mailed`). Else `link` and `token`
    are in this answer and nowhere else; hand one of them to the invited person. Whether the address has an account makes no
    difference. Inviting an address again replaces its invitation.
    """
    invited = await invitations.invite(member, team_id, body.email)
    browsers = service_of(request, Browsers)
    fields = {
        **invitation_json(invited.invitation),
        "token": invited.token.reveal(),
        "link": messages.link(browsers.base_url(request), messages.INVITATION_PAGE, invited.token),
        "mailed": invited.is_mailed,
    }
    return JSONResponse(fields, 202, {"Cache-Control": "no-store"})


@team_router.get("/{team_id}/invitations", response_model=list[InvitationView], responses=refusals(403))
async def list_invitations(team_id: str, member: MemberOf, invitations: Service) -> Response:
    """The invitations that nobody has accepted yet, newest first. For admins and the owner."""
    return JSONResponse([invitation_json(each) for each in await invitations.list(member, team_id)])


@team_router.delete("/{team_id}/invitations/{invitation_id}", status_code=204, responses=refusals(403, 404))
async def revoke_invitation(
    team_id: str, invitation_id: str, member: MemberOf, invitations: Service
) -> Response:
    """Have an invitation not be accepted any more. One that is not there is fine. For admins and the owner."""
    await invitations.revoke(member, team_id, invitation_id)
    return Response(status_code=204)


@router.post("/accept", response_model=TeamView, responses=refusals(403, 404))
async def accept_invitation(body: AcceptInvitation, account: AccountOf, invitations: Service) -> Response:
    """Join the team of an invitation, as the user whose address was invited. The token works once."""
    team, role = await invitations.accept(account, body.token)
    return JSONResponse(team_json(team, role))
