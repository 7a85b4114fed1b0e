// okta-auth-js: the sign-in endpoint as an application meets it, without any token.
import { OktaAuth } from '@okta/okta-auth-js'
import { STAGE, account, control, equal, refused, step } from './steps.mjs'

// In a process without a browser the client keeps what it remembers in memory.
const auth = new OktaAuth({ issuer: STAGE.okta, clientId: 'unused', redirectUri: 'http://localhost/callback' })
const signIn = (name, password) =>
  auth.signInWithCredentials({ username: `${name}@acme.example`, password })

await step('a right password signs in', async () => {
  const transaction = await signIn('ann', STAGE.passwords.ann)
  equal(transaction.status, 'SUCCESS')
  equal(typeof transaction.sessionToken, 'string')
  equal(transaction.user.profile.login, 'ann@acme.example')
})

await step('a wrong password is refused', async () => {
  const error = await refused(signIn('ann', 'wrong'))
  equal([error.xhr.status, error.errorCode], [401, 'E0000004'])
})

await step('a second factor is asked for after the right password only', async () => {
  const transaction = await signIn('mia', STAGE.passwords.mia)
  equal([transaction.status, transaction.factors.length], ['MFA_REQUIRED', 1])
  equal((await refused(signIn('mia', 'wrong'))).errorCode, 'E0000004')
  await transaction.cancel()
})

await step('an expired password says so and what the new one must be', async () => {
  await control('PATCH', account('acme', 'sam@acme.example'), { password_expired: true })
  const transaction = await signIn('sam', STAGE.passwords.sam)
  equal(transaction.status, 'PASSWORD_EXPIRED')
  equal(typeof transaction.changePassword, 'function')
})

await step('a locked account is told from a wrong password where the policy shows it', async () => {
  await control('POST', account('acme', 'leo@acme.example', '/wrong-passwords'), { count: 10 })
  equal((await signIn('leo', STAGE.passwords.leo)).status, 'LOCKED_OUT')
  await control('PATCH', '/directories/acme', { show_lockout_failures: false })
  equal((await refused(signIn('leo', STAGE.passwords.leo))).errorCode, 'E0000004')
})

await step('the metadata documents are found', async () => {
  const known = await (await fetch(`${STAGE.okta}/.well-known/openid-configuration`)).json()
  equal(known.issuer, STAGE.okta)
})
