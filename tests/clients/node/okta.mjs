// The Okta management SDK for Node: a service app by private_key_jwt, with DPoP and without, lists and life cycle.
import { readFileSync } from 'node:fs'
import okta from '@okta/okta-sdk-nodejs'
import { STAGE, account, control, equal, refused, step } from './steps.mjs'

const client = (clientId) =>
  new okta.Client({
    orgUrl: STAGE.okta,
    authorizationMode: 'PrivateKey',
    clientId,
    scopes: STAGE.okta_scopes,
    privateKey: readFileSync(STAGE.okta_key, 'utf8'),
    keyId: STAGE.okta_key_id,
  })

async function everything(collection) {
  const found = []
  await collection.each((one) => void found.push(one))
  return found
}

await step('a bearer token by private_key_jwt lists users', async () => {
  const users = await client(STAGE.okta_plain_app).userApi.listUsers({ limit: 200 })
  equal((await everything(users)).length, STAGE.okta_users)
})

const { userApi, groupApi, systemLogApi } = client(STAGE.okta_app)

await step('a DPoP token, after the handshake for a nonce, lists all users to the last page', async () => {
  const users = await everything(await userApi.listUsers({ limit: 200 }))
  equal([users.length, new Set(users.map((user) => user.id)).size], [STAGE.okta_users, STAGE.okta_users])
  equal(users.every((user) => user.created instanceof Date), true)
})

await step('a search finds by login', async () => {
  const users = await everything(await userApi.listUsers({ search: 'profile.login sw "ann@"' }))
  equal(users.map((user) => user.profile.login), ['ann@acme.example'])
})

const ann = await userApi.getUser({ userId: 'ann@acme.example' })
const status = async (userId) => (await userApi.getUser({ userId })).status

await step('a throttled call is repeated once the limit is reset', async () => {
  const effect = { throttle: { hint: { rate_limit_reset: 1 } } }
  await control('POST', '/faults', { operation: 'okta.users.get', effect })
  equal(await status('mia@acme.example'), 'ACTIVE') // nobody whom the SDK has in its cache
  equal(await control('GET', '/faults'), [])
})

await step('suspending and unsuspending an account', async () => {
  await userApi.suspendUser({ userId: ann.id })
  equal(await status(ann.id), 'SUSPENDED')
  const error = await refused(userApi.suspendUser({ userId: ann.id }))
  equal([error.status, error.errorCode], [400, 'E0000001'])
  await userApi.unsuspendUser({ userId: ann.id })
  equal(await status(ann.id), 'ACTIVE')
})

await step('ending sessions moves the date from which they are valid', async () => {
  const before = (await control('GET', account('acme', ann.id))).sessions_valid_from
  await userApi.revokeUserSessions({ userId: ann.id, oauthTokens: true })
  equal((await control('GET', account('acme', ann.id))).sessions_valid_from > before, true)
})

await step('a locked account is read as locked, and unlocked', async () => {
  await control('POST', account('acme', 'leo@acme.example', '/wrong-passwords'), { count: 10 })
  const leo = await userApi.getUser({ userId: 'leo@acme.example' })
  equal(leo.status, 'LOCKED_OUT')
  await userApi.unlockUser({ userId: leo.id })
  equal(await status(leo.id), 'ACTIVE')
})

await step("a user's risk is set and read", async () => {
  await userApi.upsertUserRisk({ userId: ann.id, userRiskRequest: { riskLevel: 'HIGH' } })
  equal((await userApi.getUserRisk({ userId: ann.id })).riskLevel, 'HIGH')
})

await step('groups and their members', async () => {
  const [pilot] = await everything(await groupApi.listGroups({ q: 'Pilot' }))
  const members = await everything(await groupApi.listGroupUsers({ groupId: pilot.id, limit: 20 }))
  equal(members.length, STAGE.okta_group_members)
})

await step('the System Log tells what was done', async () => {
  const filter = 'eventType eq "user.lifecycle.suspend"'
  // A polling query always has a next page: one page, then the bounded form to its end.
  const until = new Date(Date.now() + 1000).toISOString()
  const since = new Date(Date.now() - 60_000).toISOString()
  const events = await everything(await systemLogApi.listLogEvents({ filter, since, until }))
  equal(events.map((event) => event.eventType), ['user.lifecycle.suspend'])
})
