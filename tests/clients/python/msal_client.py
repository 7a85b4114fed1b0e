"""MSAL for Python: application tokens by secret and certificate, and password checks.

It speaks through `requests`, which follows HTTPS_PROXY and REQUESTS_CA_BUNDLE.
"""

import msal
import requests

from steps import STAGE, account, control, equal, finish, step

AUTHORITY = f"https://login.microsoftonline.com/{STAGE['tenant']}"
GRAPH = ["https://graph.microsoft.com/.default"]


def confidential(credential):
    return msal.ConfidentialClientApplication(STAGE["app"], credential, authority=AUTHORITY)


def check(name: str, password: str, scopes=("User.Read",)) -> dict:
    """A password check by an application of its own, so that nothing is answered from a cache."""
    app = msal.PublicClientApplication(STAGE["public_app"], authority=AUTHORITY)
    return app.acquire_token_by_username_password(f"{name}@contoso.example", password, list(scopes))


def codes(answer: dict) -> list:
    return answer.get("error_codes") or [answer.get("error") or "signed in"]


with step("an application token by client secret, and again from the cache"):
    app = confidential(STAGE["secret"])
    first = app.acquire_token_for_client(GRAPH)
    equal(first.get("token_type"), "Bearer")
    again = app.acquire_token_for_client(GRAPH)
    equal(again["access_token"], first["access_token"])

with step("an application token by certificate, PS256"):
    with open(STAGE["certificate"]) as pem:
        text = pem.read()
    certificate = text[text.index("-----BEGIN CERTIFICATE") :]
    app = confidential({"private_key": text, "public_certificate": certificate})
    answer = app.acquire_token_for_client(GRAPH)
    equal(answer.get("token_type") or answer, "Bearer")

with step("a wrong client secret is told from a missing tenant"):
    equal(codes(confidential("wrong").acquire_token_for_client(GRAPH)), [7000215])
    try:
        msal.ConfidentialClientApplication("x", "y", authority="https://login.microsoftonline.com/nowhere.example")
    except ValueError as error:
        equal("Unable to get authority configuration" in str(error), True)
    else:
        raise AssertionError("an unknown tenant was accepted")

with step("a right password signs in, with an account in the cache"):
    app = msal.PublicClientApplication(STAGE["public_app"], authority=AUTHORITY)
    answer = app.acquire_token_by_username_password(
        "ann@contoso.example", STAGE["passwords"]["ann"], ["User.Read"]
    )
    equal(codes(answer), ["signed in"])
    equal(answer["id_token_claims"]["preferred_username"], "ann@contoso.example")
    (known,) = app.get_accounts("ann@contoso.example")
    equal(app.acquire_token_silent(["User.Read"], known)["access_token"], answer["access_token"])

with step("the refresh token redeems for another scope"):
    other = app.acquire_token_silent(["Mail.Read"], known)
    equal(bool(other and other.get("access_token")), True)

with step("once the sessions are revoked the refresh token is dead, and the password signs in again"):
    bearer = confidential(STAGE["secret"]).acquire_token_for_client(GRAPH)["access_token"]
    revoke = "https://graph.microsoft.com/v1.0/users/ann@contoso.example/revokeSignInSessions"
    equal(requests.post(revoke, headers={"Authorization": f"Bearer {bearer}"}, timeout=30).json()["value"], True)
    equal(app.acquire_token_silent(["Calendars.Read"], known), None)
    equal(codes(check("ann", STAGE["passwords"]["ann"])), ["signed in"])

with step("a wrong password is 50126"):
    equal(codes(check("ann", "wrong")), [50126])

with step("a missing user is 50034"):
    equal(codes(check("nobody", "whatever")), [50034])

with step("a second factor behind the right password is 50076"):
    equal(codes(check("mia", STAGE["passwords"]["mia"])), [50076])
    equal(codes(check("mia", "wrong")), [50126])

with step("a locked account is 50053 whatever the password"):
    control("POST", account(STAGE["tenant"], "leo@contoso.example", "/wrong-passwords"), {"count": 10})
    equal(codes(check("leo", STAGE["passwords"]["leo"])), [50053])

finish()
