// Steps of a client test: each prints one line, a failed one its stack too, and the rest goes on.
import { deepStrictEqual } from 'node:assert'
import { readFileSync } from 'node:fs'

export const STAGE = JSON.parse(readFileSync(process.env.STAGE))
export const equal = deepStrictEqual

export async function step(name, body) {
  try {
    await body()
    console.log(`ok ${name}`)
  } catch (error) {
    console.error(error)
    console.log(`FAIL ${name}: ${String(error).split('\n')[0]}`)
    process.exitCode = 1
  }
}

/** A call to the simulator's control port. */
export async function control(method, path, body) {
  const answer = await fetch(process.env.CONTROL + path, {
    method,
    headers: { 'content-type': 'application/json' },
    body: method === 'GET' ? undefined : JSON.stringify(body ?? {}),
  })
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`)
  return answer.json()
}

/** The control port's path of an account. */
export const account = (directory, login, suffix = '') =>
  `/directories/${directory}/accounts/${encodeURIComponent(login)}${suffix}`

/** Fails unless the call is refused; returns the refusal. */
export async function refused(call) {
  let answer
  try {
    answer = await call
  } catch (error) {
    return error
  }
  throw new Error(`was not refused: ${JSON.stringify(answer)}`)
}
