// MSAL for Node: application tokens by secret and certificate, and password checks.
import { readFileSync } from 'node:fs'
import { ConfidentialClientApplication, PublicClientApplication } from '@azure/msal-node'
import { STAGE, account, control, equal, refused, step } from './steps.mjs'

const authority = `https://login.microsoftonline.com/${STAGE.tenant}`
const scopes = ['https://graph.microsoft.com/.default']

const confidential = (credential) =>
  new ConfidentialClientApplication({ auth: { clientId: STAGE.app, authority, ...credential } })

// An application of its own for each check, so that nothing is answered from a cache.
const application = () => new PublicClientApplication({ auth: { clientId: STAGE.public_app, authority } })
const check = (name, password) =>
  application().acquireTokenByUsernamePassword({
    scopes: ['User.Read'],
    username: `${name}@contoso.example`,
    password,
  })
const code = (error) => Number(/AADSTS(\d+)/.exec(error.message)?.[1])

await step('an application token by client secret, and again from the cache', async () => {
  const app = confidential({ clientSecret: STAGE.secret })
  const first = await app.acquireTokenByClientCredential({ scopes })
  equal(first.tokenType, 'Bearer')
  const again = await app.acquireTokenByClientCredential({ scopes })
  equal([again.accessToken, again.fromCache], [first.accessToken, true])
})

await step('an application token by certificate', async () => {
  const pem = readFileSync(STAGE.certificate, 'utf8')
  const privateKey = pem.slice(0, pem.indexOf('-----BEGIN CERTIFICATE'))
  const app = confidential({ clientCertificate: { thumbprintSha256: STAGE.thumbprint, privateKey } })
  equal((await app.acquireTokenByClientCredential({ scopes })).tokenType, 'Bearer')
})

await step('a wrong client secret is 7000215', async () => {
  const error = await refused(confidential({ clientSecret: 'wrong' }).acquireTokenByClientCredential({ scopes }))
  equal(code(error), 7000215)
})

await step('a right password signs in, with an account in the cache', async () => {
  const app = application()
  const signedIn = await app.acquireTokenByUsernamePassword({
    scopes: ['User.Read'],
    username: 'ann@contoso.example',
    password: STAGE.passwords.ann,
  })
  equal(signedIn.account.username, 'ann@contoso.example')
  equal(signedIn.account.tenantId, STAGE.tenant)
  const silent = await app.acquireTokenSilent({ scopes: ['User.Read'], account: signedIn.account })
  equal(silent.accessToken, signedIn.accessToken)
})

await step('a wrong password is 50126', async () => {
  equal(code(await refused(check('ann', 'wrong'))), 50126)
})

await step('a second factor behind the right password is 50076', async () => {
  equal(code(await refused(check('mia', STAGE.passwords.mia))), 50076)
})

await step('a locked account is 50053 whatever the password', async () => {
  await control('POST', account(STAGE.tenant, 'leo@contoso.example', '/wrong-passwords'), { count: 10 })
  equal(code(await refused(check('leo', STAGE.passwords.leo))), 50053)
})
