"""The Okta management SDK for Python: a service app by private_key_jwt, with DPoP and without, lists, life cycle, logs.

It speaks through aiohttp, reads HTTPS_PROXY itself and trusts what Python's ssl module does (SSL_CERT_FILE).
"""

import asyncio
import logging
import re

from okta.client import Client
from okta.models.user_risk_request import UserRiskRequest

from steps import STAGE, account, control, equal, finish, step

logging.getLogger("okta-sdk-python").setLevel(logging.CRITICAL)  # the refusals below are wanted


def client(app: str, **more) -> Client:
    with open(STAGE["okta_key"]) as pem:
        key = pem.read()
    return Client(
        {
            "orgUrl": STAGE["okta"],
            "authorizationMode": "PrivateKey",
            "clientId": app,
            "scopes": STAGE["okta_scopes"],
            "privateKey": key,
            "kid": STAGE["okta_key_id"],
            **more,
        }
    )


async def pages(call, **query):
    """All objects of a list and the number of pages. Okta sends `self` and `next` in header lines of their own."""
    found, count, after = [], 0, None
    while True:
        page, response, error = await call(**query, after=after)
        if error:
            raise AssertionError(error)
        found.extend(page)
        count += 1
        lines = ", ".join(value for name, value in response.headers.items() if name.lower() == "link")
        following = re.search(r'<[^>]*[?&]after=([^&>]+)[^>]*>; rel="next"', lines)
        if not following or not page:
            return found, count
        after = following.group(1)


async def good(call):
    """What a call returns, unless it failed."""
    value, *_, error = await call
    if error:
        raise AssertionError(error)
    return value


async def main() -> None:
    with step("a bearer token by private_key_jwt lists users"):
        users = await good(client(STAGE["okta_plain_app"]).list_users(limit=1))
        equal(len(users), 1)

    okta = client(STAGE["okta_app"], dpopEnabled=True)
    with step("a DPoP token, after the handshake for a nonce, lists all users to the last page"):
        users, count = await pages(okta.list_users, limit=200)
        equal((len(users), len({user.id for user in users}), count), (STAGE["okta_users"],) * 2 + (3,))

    with step("a filter and a search find by status and by date"):
        users, _ = await pages(okta.list_users, filter='status eq "SUSPENDED"')
        equal({user.status.value for user in users}, {"SUSPENDED"})
        users, _ = await pages(okta.list_users, search='profile.login sw "ann@"')
        equal([user.profile.login for user in users], ["ann@acme.example"])
        control("PATCH", account("acme", "sam@acme.example"), {"department": "Moved"})
        moved = control("GET", account("acme", "sam@acme.example"))["updated"][:19] + ".000Z"
        users, _ = await pages(okta.list_users, filter=f'lastUpdated ge "{moved}"')
        equal("sam@acme.example" in {user.profile.login for user in users}, True)

    ann = await good(okta.get_user("ann@acme.example"))

    with step("a throttled call is repeated once the limit is reset"):
        throttle = {"operation": "okta.users.get", "effect": {"throttle": {"hint": {"rate_limit_reset": 1}}}}
        control("POST", "/faults", throttle)
        equal((await good(okta.get_user(ann.id))).id, ann.id)
        equal(control("GET", "/faults"), [])

    with step("suspending and unsuspending an account"):
        await good(okta.suspend_user(ann.id))
        equal((await good(okta.get_user(ann.id))).status.value, "SUSPENDED")
        await good(okta.unsuspend_user(ann.id))
        equal((await good(okta.get_user(ann.id))).status.value, "ACTIVE")

    with step("suspending twice is refused in Okta's words"):
        await good(okta.suspend_user(ann.id))
        *_, error = await okta.suspend_user(ann.id)
        equal((error.status, error.error_code), (400, "E0000001"))
        await good(okta.unsuspend_user(ann.id))

    with step("ending sessions moves the date from which they are valid"):
        before = control("GET", account("acme", ann.id))["sessions_valid_from"]
        await good(okta.revoke_user_sessions(ann.id, oauth_tokens=True))
        equal(control("GET", account("acme", ann.id))["sessions_valid_from"] > before, True)

    with step("a locked account is read as locked, and unlocked"):
        control("POST", account("acme", "leo@acme.example", "/wrong-passwords"), {"count": 10})
        leo = await good(okta.get_user("leo@acme.example"))
        equal(leo.status.value, "LOCKED_OUT")
        await good(okta.unlock_user(leo.id))
        equal((await good(okta.get_user(leo.id))).status.value, "ACTIVE")

    with step("the user's risk is set and read"):
        await good(okta.upsert_user_risk(ann.id, UserRiskRequest(risk_level="HIGH")))
        equal((await good(okta.get_user_risk(ann.id))).risk_level, "HIGH")

    with step("the System Log tells what was done"):
        events = await good(okta.list_log_events(limit=100))
        kinds = {event.event_type for event in events}
        equal({"user.lifecycle.suspend", "user.lifecycle.unsuspend", "user.session.clear"} <= kinds, True)

    with step("groups and their members"):
        groups = await good(okta.list_groups())
        (pilot,) = [group for group in groups if group.profile.actual_instance.name == "Pilot"]
        members, _ = await pages(okta.list_group_users, group_id=pilot.id, limit=20)
        equal(len(members), STAGE["okta_group_members"])

    with step("password policies are read"):
        policies = await good(okta.list_policies(type="PASSWORD"))
        equal([policy.settings.password.lockout.max_attempts for policy in policies], [10])


asyncio.run(main())
finish()
