"""Azure Identity with the Graph SDK for Python: lists, deltas, mitigations, batches.

Azure Identity speaks through `requests` (HTTPS_PROXY, REQUESTS_CA_BUNDLE), the Graph SDK through httpx (HTTPS_PROXY,
SSL_CERT_FILE).
"""

import asyncio

from azure.identity import CertificateCredential, ClientSecretCredential
from kiota_abstractions.api_error import APIError
from msgraph import GraphServiceClient
from msgraph.generated.groups.item.transitive_members.graph_user.count.count_request_builder import (
    CountRequestBuilder as UserCount,
)
from msgraph.generated.identity_protection.risky_users.confirm_compromised.confirm_compromised_post_request_body import (
    ConfirmCompromisedPostRequestBody,
)
from msgraph.generated.identity_protection.risky_users.dismiss.dismiss_post_request_body import DismissPostRequestBody
from msgraph.generated.models.risk_state import RiskState
from msgraph.generated.models.user import User
from msgraph.generated.users.delta.delta_request_builder import DeltaRequestBuilder
from msgraph.generated.users.item.user_item_request_builder import UserItemRequestBuilder
from msgraph.generated.users.users_request_builder import UsersRequestBuilder
from msgraph_core.requests.batch_request_content import BatchRequestContent
from msgraph_core.requests.batch_request_item import BatchRequestItem

from steps import STAGE, account, control, equal, finish, step

TENANT = STAGE["tenant"]
ANN = "aaaaaaaa-0000-4000-8000-000000000001"


def client(credential) -> GraphServiceClient:
    return GraphServiceClient(credential, ["https://graph.microsoft.com/.default"])


async def every_user(graph: GraphServiceClient, **query) -> list:
    """All users, page after page."""
    parameters = UsersRequestBuilder.UsersRequestBuilderGetQueryParameters(**query)
    options = UsersRequestBuilder.UsersRequestBuilderGetRequestConfiguration(query_parameters=parameters)
    page = await graph.users.get(request_configuration=options)
    users, pages = list(page.value), 1
    while page.odata_next_link:
        page = await graph.users.with_url(page.odata_next_link).get()
        users.extend(page.value)
        pages += 1
    return users, pages


async def delta(graph: GraphServiceClient, link: str | None = None):
    """All objects of a round, and the link at which the next one starts."""
    if link is None:
        parameters = DeltaRequestBuilder.DeltaRequestBuilderGetQueryParameters(
            select=["id", "userPrincipalName", "accountEnabled"]
        )
        options = DeltaRequestBuilder.DeltaRequestBuilderGetRequestConfiguration(query_parameters=parameters)
        page = await graph.users.delta.get(request_configuration=options)
    else:
        page = await graph.users.delta.with_url(link).get()
    objects = list(page.value)
    while page.odata_next_link:
        page = await graph.users.delta.with_url(page.odata_next_link).get()
        objects.extend(page.value)
    return objects, page.odata_delta_link


async def read(graph: GraphServiceClient, name: str) -> User:
    """Ann, with one property that is not among the default ones."""
    parameters = UserItemRequestBuilder.UserItemRequestBuilderGetQueryParameters(select=["id", name])
    options = UserItemRequestBuilder.UserItemRequestBuilderGetRequestConfiguration(query_parameters=parameters)
    return await graph.users.by_user_id(ANN).get(request_configuration=options)


async def main() -> None:
    secret = client(ClientSecretCredential(TENANT, STAGE["app"], STAGE["secret"]))
    graph = client(CertificateCredential(TENANT, STAGE["app"], STAGE["certificate"]))

    with step("a client secret opens Graph"):
        organization = await secret.organization.get()
        equal(organization.value[0].id, TENANT)

    with step("all users to the last page, by certificate, 999 at a time"):
        users, pages = await every_user(graph, top=999, select=["id", "userPrincipalName", "accountEnabled", "userType"])
        equal((len(users), len({user.id for user in users}), pages), (STAGE["entra_users"], STAGE["entra_users"], 2))
        equal({user.account_enabled for user in users}, {True, False})

    with step("the default page carries dates and lists as their types"):
        page = await graph.users.get()
        equal(len(page.value), 100)
        one = await graph.users.by_user_id(ANN).get()
        equal((one.user_principal_name, one.account_enabled), ("ann@contoso.example", None))

    with step("an advanced query counts"):
        parameters = UsersRequestBuilder.UsersRequestBuilderGetQueryParameters(
            count=True, filter="endsWith(userPrincipalName,'@fed.contoso.example')", top=5
        )
        options = UsersRequestBuilder.UsersRequestBuilderGetRequestConfiguration(query_parameters=parameters)
        options.headers.add("ConsistencyLevel", "eventual")
        page = await graph.users.get(request_configuration=options)
        equal(page.odata_count > 5, True)

    with step("a throttled call is repeated after the delay it was told"):
        throttle = {"operation": "graph.users.get", "effect": {"throttle": {"hint": {"seconds": 1}}}}
        control("POST", "/faults", throttle)
        equal((await read(graph, "accountEnabled")).account_enabled, True)
        equal(control("GET", "/faults"), [])

    with step("a refusal arrives as the SDK's error"):
        try:
            await graph.users.by_user_id("nobody@contoso.example").get()
        except APIError as error:
            equal((error.response_status_code, error.error.code), (404, "Request_ResourceNotFound"))
        else:
            raise AssertionError("found nobody")

    with step("a delta gives everybody once, then what changed in between"):
        everybody, link = await delta(graph)
        equal(len({user.id for user in everybody}), STAGE["entra_users"])
        nothing, link = await delta(graph, link)
        equal(nothing, [])
        control("PATCH", account(TENANT, ANN), {"status": "disabled"})
        control("DELETE", account(TENANT, "sam@contoso.example"))
        changed, link = await delta(graph, link)
        equal([user.account_enabled for user in changed if user.id == ANN], [False])
        removed = [user.additional_data.get("@removed") for user in changed if user.id != ANN]
        equal(removed, [{"reason": "changed"}])
        equal((await delta(graph, link))[0], [])

    with step("enabling and disabling an account"):
        for enabled in (True, False):
            await graph.users.by_user_id(ANN).patch(User(account_enabled=enabled))
            equal((await read(graph, "accountEnabled")).account_enabled, enabled)

    with step("revoking sessions moves the date from which they are valid"):
        control("PATCH", account(TENANT, ANN), {"sessions_valid_from": "2026-01-01T00:00:00Z"})
        before = (await read(graph, "signInSessionsValidFromDateTime")).sign_in_sessions_valid_from_date_time
        answer = await graph.users.by_user_id(ANN).revoke_sign_in_sessions.post()
        equal(answer.value, True)
        after = (await read(graph, "signInSessionsValidFromDateTime")).sign_in_sessions_valid_from_date_time
        equal(after > before, True)

    with step("confirming a user compromised, and dismissing it"):
        risky = graph.identity_protection.risky_users
        await risky.confirm_compromised.post(ConfirmCompromisedPostRequestBody(user_ids=[ANN]))
        equal((await risky.by_risky_user_id(ANN).get()).risk_state, RiskState.ConfirmedCompromised)
        await risky.dismiss.post(DismissPostRequestBody(user_ids=[ANN]))
        equal((await risky.by_risky_user_id(ANN).get()).risk_state, RiskState.Dismissed)
        equal([user.id for user in (await risky.get()).value], [ANN])

    with step("members of a group, nested ones included"):
        members = graph.groups.by_group_id(STAGE["group"]).transitive_members
        page = await members.get()
        equal(len(page.value), 100)
        equal({type(member) for member in page.value}, {User})
        options = UserCount.CountRequestBuilderGetRequestConfiguration()
        options.headers.add("ConsistencyLevel", "eventual")
        equal(await members.graph_user.count.get(request_configuration=options), STAGE["group_members"])


    with step("a batch answers each of its requests"):
        users = graph.users
        batch = BatchRequestContent()
        for name, request in {
            "read": users.by_user_id(ANN).to_get_request_information(),
            "enable": users.by_user_id(ANN).to_patch_request_information(User(account_enabled=True)),
            "missing": users.by_user_id("nobody@contoso.example").to_get_request_information(),
        }.items():
            item = BatchRequestItem(request, id=name)
            # Graph refuses the absolute URLs that this SDK puts in (msgraph-sdk-python#1015), and so does the simulator.
            item.url = item.url.removeprefix("https://graph.microsoft.com/v1.0")
            batch.add_request(name, item)
        answers = await graph.batch.post(batch)
        equal(answers.get_response_status_codes(), {"read": 200, "enable": 204, "missing": 404})
        equal((await read(graph, "accountEnabled")).account_enabled, True)


asyncio.run(main())
finish()
