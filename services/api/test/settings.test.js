'use strict'

const { test } = require('node:test')
const assert = require('node:assert/strict')
const { spawn } = require('node:child_process')
const fs = require('node:fs')
const net = require('node:net')
const { readConfig } = require('../config')
const { API_DIR, apiEnv, exitOf, tempDir } = require('./helpers')

// variable, bad value, what the message must say, other settings
const BAD = [
  ['API_PORT', '99999', /not a whole number from 0 to 65535/],
  ['API_PORT', 'tcp://10.96.0.7:3030', /service links.*set API_PORT yourself/],
  ['API_SESSION_SECRET', '', /missing; set a long random text/],
  ['API_SESSION_SECRET', 'one,,two', /empty; remove the extra comma/],
  ['API_SESSION_SECRET', 'short', /shorter than 16 characters in production/, { NODE_ENV: 'production' }],
  ['AUTH_ENV', 'dev', /use development or production/],
  ['DASHBOARD_URL', 'dashboard.example', /http\(s\) URL nor a path/],
  ['DASHBOARD_URL', '//evil.example', /http\(s\) URL nor a path/],
  ['NODE_ENV', 'prod', /use production or development/],
  ['REDCAP_AUTH_URL', '', /missing; set the URL that verifies login codes, or AUTH_ENV=development/, { AUTH_ENV: 'production' }],
  ['REDCAP_AUTH_URL', 'redcap', /not an http\(s\) URL/],
  ['REDIS_COMMAND_TIMEOUT_MS', '0', /from 10 to 60000/],
  ['REDIS_CONNECT_TIMEOUT_MS', '2s', /from 10 to 60000/],
  ['REDIS_HOST', 'redis:6379', /the port goes to REDIS_PORT/],
  ['REDIS_HOST', 'redis://:hunter2@redis', /not a host name/],
  ['REDIS_PASSWORD', 'hunter2\n', /line break.*echo -n/],
  ['REDIS_PASSWORD', '', /missing though REDIS_USERNAME is set/, { REDIS_USERNAME: 'app' }],
  ['REDIS_PORT', '70000', /from 1 to 65535/],
  ['REDIS_PORT', 'tcp://10.96.0.9:6379', /service links.*set REDIS_PORT yourself/],
  ['REDIS_SESSION_DB', '-1', /from 0 to/],
  ['REDIS_TLS', 'yes', /use true or false/],
  ['REDIS_TLS', '', /unset though REDIS_TLS_CA is set/, { REDIS_TLS_CA: '/ca.pem' }],
  ['REDIS_TLS_CA', '/no/such/ca.pem', /ENOENT.*PEM bundle/, { REDIS_TLS: 'true' }],
  ['REDIS_TLS_SERVERNAME', '10.0.0.1', /give a host name/],
  ['SESSION_COOKIE_NAME', 'a b', /not a cookie name/],
  ['SESSION_COOKIE_SAMESITE', 'none', /use lax or strict/],
  ['SESSION_COOKIE_SECURE', '1', /use true or false/],
  ['SESSION_PREFIX', 'ctmd:*', /use letters, digits and colons/],
  ['SESSION_REQUEST_BUDGET_MS', '4s', /from 0 to 60000/],
  ['SESSION_STORE', 'postgres', /use redis or memory/],
  ['SESSION_TTL_SECONDS', '12h', /from 1 to/],
  ['SESSION_TTL_SECONDS', '0', /from 1 to/],
  ['SESSION_WAIT_REPLICAS', 'all', /from 0 to 10/],
  ['SESSION_WAIT_TIMEOUT_MS', '0', /from 10 to 10000/],
  ['SHUTDOWN_DELAY_MS', '-5', /from 0 to/],
  ['SHUTDOWN_TIMEOUT_MS', '0', /from 1 to/],
  ['TRUST_PROXY', 'proxy.example', /number of proxies, or their addresses/],
  ['TRUST_PROXY', '10.0.0.0/99', /number of proxies, or their addresses/],
]

const problemsOf = (settings) => {
  try {
    readConfig(apiEnv(null, settings))
  } catch (err) {
    assert.equal(err.name, 'SettingsError', err.stack)
    return err.problems
  }
  return []
}

for (const [name, value, message, others] of BAD) {
  test(`${name}=${JSON.stringify(value)} is one clear error`, () => {
    const problems = problemsOf({ ...others, [name]: value })
    assert.equal(problems.length, 1, problems.join('\n'))
    assert.ok(problems[0].startsWith(`${name}: `), problems[0])
    assert.match(problems[0], message)
    assert.doesNotMatch(problems[0], /hunter2/)
  })
}

test('a CA file that is no certificate is one clear error', (t) => {
  const file = `${tempDir(t)}/ca.pem`
  for (const content of ['', 'text', '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n']) {
    fs.writeFileSync(file, content)
    const problems = problemsOf({ REDIS_TLS: 'true', REDIS_TLS_CA: file })
    assert.equal(problems.length, 1)
    assert.match(problems[0], /^REDIS_TLS_CA: cannot use .*; give the path of a PEM bundle/)
  }
})

test('what a failover may cost, unless told otherwise', () => {
  const { requestBudgetMs, waitReplicas, waitTimeoutMs } = readConfig(apiEnv(null, { SESSION_REQUEST_BUDGET_MS: '' })).sessions
  assert.deepEqual({ requestBudgetMs, waitReplicas, waitTimeoutMs }, { requestBudgetMs: 4000, waitReplicas: 0, waitTimeoutMs: 500 })
})

test('good values of TRUST_PROXY', () => {
  for (const value of ['', 'true', 'false', '1', 'loopback', '10.0.0.0/8, ::1', 'fd00::/8,uniquelocal']) {
    assert.deepEqual(problemsOf({ TRUST_PROXY: value }), [], value)
  }
})

async function run(env) {
  const child = spawn(process.execPath, ['app.js'], { cwd: API_DIR, env })
  let text = ''
  child.stdout.on('data', (chunk) => (text += chunk))
  child.stderr.on('data', (chunk) => (text += chunk))
  return { code: await exitOf(child), text }
}

test('the API names all bad settings at once and exits with 1', async () => {
  const { code, text } = await run(apiEnv(null, { REDIS_PORT: 'x', SESSION_STORE: 'disk', SESSION_COOKIE_SAMESITE: 'none' }))
  assert.equal(code, 1)
  for (const name of ['REDIS_PORT: ', 'SESSION_STORE: ', 'SESSION_COOKIE_SAMESITE: ']) assert.ok(text.includes(name), text)
  assert.doesNotMatch(text, /\n\s+at /, 'no stack trace')
  assert.equal(text.trim().split('\n').length, 4)
})

test('a port in use is one clear error and exit 1', async (t) => {
  const other = net.createServer().listen(0)
  t.after(() => other.close())
  await new Promise((resolve) => other.once('listening', resolve))
  const { code, text } = await run(apiEnv(null, { API_PORT: String(other.address().port) }))
  assert.equal(code, 1)
  assert.match(text, /^API_PORT: port \d+ is in use; .*choose another port$/m)
  assert.doesNotMatch(text, /\n\s+at /)
})
