// Azure Identity with the Graph client for Node: lists, deltas, mitigations, batches.
import { ClientCertificateCredential, ClientSecretCredential } from '@azure/identity'
import { BatchRequestContent, BatchResponseContent, Client, PageIterator } from '@microsoft/microsoft-graph-client'
import auth from '@microsoft/microsoft-graph-client/authProviders/azureTokenCredentials/index.js'
import { STAGE, account, control, equal, refused, step } from './steps.mjs'

const ANN = 'aaaaaaaa-0000-4000-8000-000000000001'
const scopes = ['https://graph.microsoft.com/.default']
const client = (credential) =>
  Client.initWithMiddleware({
    authProvider: new auth.TokenCredentialAuthenticationProvider(credential, { scopes }),
  })
const secret = client(new ClientSecretCredential(STAGE.tenant, STAGE.app, STAGE.secret))
const graph = client(
  new ClientCertificateCredential(STAGE.tenant, STAGE.app, { certificatePath: STAGE.certificate }),
)

/** All objects of a list or of a delta's round, and the delta link at its end. */
async function everything(page, headers = {}) {
  const objects = []
  const iterator = new PageIterator(graph, page, (object) => objects.push(object) > 0, { headers })
  await iterator.iterate()
  return { objects, delta: iterator.getDeltaLink() }
}

await step('a client secret opens Graph', async () => {
  const organization = await secret.api('/organization').get()
  equal(organization.value[0].id, STAGE.tenant)
})

await step('all users to the last page, by certificate, 999 at a time', async () => {
  const first = await graph.api('/users').select(['id', 'userPrincipalName', 'accountEnabled']).top(999).get()
  equal(first.value.length, 999)
  const { objects } = await everything(first)
  equal([objects.length, new Set(objects.map((user) => user.id)).size], [STAGE.entra_users, STAGE.entra_users])
})

await step('an advanced query counts', async () => {
  const page = await graph
    .api('/users')
    .header('ConsistencyLevel', 'eventual')
    .count(true)
    .filter("endsWith(userPrincipalName,'@fed.contoso.example')")
    .top(5)
    .get()
  equal(page['@odata.count'] > 5, true)
})

await step('a throttled call is repeated after the delay it was told', async () => {
  await control('POST', '/faults', { operation: 'graph.users.get', effect: { throttle: { hint: { seconds: 1 } } } })
  equal((await graph.api(`/users/${ANN}`).get()).id, ANN)
  equal(await control('GET', '/faults'), [])
})

await step("a refusal arrives as the client's error", async () => {
  const error = await refused(graph.api('/users/nobody@contoso.example').get())
  equal([error.statusCode, error.code], [404, 'Request_ResourceNotFound'])
})

await step('a delta gives everybody once, then what changed in between', async () => {
  const round = await everything(await graph.api('/users/delta').select('id,accountEnabled').get())
  equal(new Set(round.objects.map((user) => user.id)).size, STAGE.entra_users)
  await control('PATCH', account(STAGE.tenant, ANN), { status: 'disabled' })
  await control('DELETE', account(STAGE.tenant, 'sam@contoso.example'))
  const changes = await everything(await graph.api(round.delta).get())
  equal(changes.objects.length, 2)
  equal(changes.objects.find((user) => user.id === ANN).accountEnabled, false)
  equal(changes.objects.find((user) => user.id !== ANN)['@removed'], { reason: 'changed' })
  equal((await everything(await graph.api(changes.delta).get())).objects, [])
})

await step('enabling and disabling an account', async () => {
  for (const accountEnabled of [true, false]) {
    await graph.api(`/users/${ANN}`).update({ '@odata.type': '#microsoft.graph.user', accountEnabled })
    equal((await graph.api(`/users/${ANN}`).select('accountEnabled').get()).accountEnabled, accountEnabled)
  }
})

await step('revoking sessions moves the date from which they are valid', async () => {
  const before = (await control('GET', account(STAGE.tenant, ANN))).sessions_valid_from
  equal((await graph.api(`/users/${ANN}/revokeSignInSessions`).post({})).value, true)
  equal((await control('GET', account(STAGE.tenant, ANN))).sessions_valid_from > before, true)
})

await step('confirming a user compromised, and dismissing it', async () => {
  const risky = '/identityProtection/riskyUsers'
  await graph.api(`${risky}/confirmCompromised`).post({ userIds: [ANN] })
  equal((await graph.api(`${risky}/${ANN}`).get()).riskState, 'confirmedCompromised')
  await graph.api(`${risky}/dismiss`).post({ userIds: [ANN] })
  equal((await graph.api(`${risky}/${ANN}`).get()).riskState, 'dismissed')
})

await step('members of a group, nested ones included', async () => {
  const headers = { ConsistencyLevel: 'eventual' }
  const path = `/groups/${STAGE.group}/transitiveMembers/microsoft.graph.user`
  const page = await graph.api(path).headers(headers).count(true).select('id').top(100).get()
  equal(page['@odata.count'], STAGE.group_members)
  equal((await everything(page, headers)).objects.length, STAGE.group_members)
})

await step('a batch answers each of its requests', async () => {
  const url = `https://graph.microsoft.com/users/${ANN}`
  const missing = 'https://graph.microsoft.com/users/nobody@contoso.example'
  const headers = { 'content-type': 'application/json' }
  const enable = { method: 'PATCH', headers, body: JSON.stringify({ accountEnabled: true }) }
  const batch = new BatchRequestContent([
    { id: 'enable', request: new Request(url, enable) },
    { id: 'read', request: new Request(`${url}?$select=accountEnabled`), dependsOn: ['enable'] },
    { id: 'missing', request: new Request(missing), dependsOn: ['read'] },
  ])
  const answers = new BatchResponseContent(await graph.api('/$batch').post(await batch.getContent()))
  const status = (id) => answers.getResponseById(id).status
  equal([status('enable'), status('read'), status('missing')], [204, 200, 404])
  equal((await answers.getResponseById('read').json()).accountEnabled, true)
})
